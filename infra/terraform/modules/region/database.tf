# The region's replica, and what any database in this region needs. The primary itself stands in the root module.

resource "aws_db_subnet_group" "this" {
  name       = var.name
  subnet_ids = values(aws_subnet.private)[*].id
}

# The same for the primary and its replicas: a standby with a smaller max_connections than its primary does not start.
resource "aws_db_parameter_group" "this" {
  name_prefix = "${var.name}-"
  family      = "postgres${split(".", var.database.engine_version)[0]}"

  dynamic "parameter" {
    for_each = var.database_parameters

    content {
      name         = parameter.key
      value        = parameter.value.value
      apply_method = parameter.value.static ? "pending-reboot" : "immediate"
    }
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_security_group" "database" {
  name_prefix = "${var.name}-database-"
  description = "Postgres."
  vpc_id      = aws_vpc.this.id

  lifecycle {
    create_before_destroy = true
  }
}

# From every region: each asks the primary how far it is, and each replica may become the primary. Replicas of other regions
# stream from here over RDS' own network and need no rule.
resource "aws_vpc_security_group_ingress_rule" "database" {
  for_each = var.vpc_cidrs

  security_group_id = aws_security_group.database.id
  description       = "Postgres from ${each.key}."
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 5432
  to_port           = 5432
}

resource "aws_db_instance" "replica" {
  # checkov:skip=CKV_AWS_118:As for the primary.
  # checkov:skip=CKV2_AWS_69:rds.force_ssl stands in the parameters that the root module passes, which checkov does not follow. tests/topology.tftest.hcl holds it.

  identifier = "${var.name}-replica"

  # By its ARN in the primary's own region, too: there the short name would not take a subnet group. Without a source it is
  # promoted.
  replicate_source_db = local.is_promoted ? null : var.primary_database_arn
  instance_class      = var.database.instance_class
  storage_type        = "gp3"

  storage_encrypted    = true
  kms_key_id           = aws_kms_key.this.arn
  db_subnet_group_name = aws_db_subnet_group.this.name
  parameter_group_name = aws_db_parameter_group.this.name

  vpc_security_group_ids = [aws_security_group.database.id]
  publicly_accessible    = false
  ca_cert_identifier     = "rds-ca-rsa2048-g1"

  # One that is promoted has to have backups, and a standby, as the primary had; a replica has none to pay for.
  multi_az                = local.is_promoted
  backup_retention_period = local.is_promoted ? var.database.backup_days : 0
  max_allocated_storage   = var.database.storage_max_gib

  performance_insights_enabled    = true
  performance_insights_kms_key_id = aws_kms_key.this.arn
  enabled_cloudwatch_logs_exports = ["postgresql"]
  auto_minor_version_upgrade      = true
  copy_tags_to_snapshot           = true
  deletion_protection             = true
  skip_final_snapshot             = !local.is_promoted
  final_snapshot_identifier       = "${var.name}-replica-last"
}
