# The primary. Its replicas, one a region, are in modules/region, as is all that belongs to a region (subnets, parameter group,
# security group, key).

locals {
  database_parameters = {
    # Above what all tasks open at most, equal on primary and replicas.
    max_connections = { value = tostring(var.database.connections_max), static = true }
    # Nobody without TLS.
    "rds.force_ssl" = { value = "1", static = false }
    # What is told to have been committed is on disk: positions of sessions and fences rest on it.
    synchronous_commit = { value = "on", static = false }
    # A query on a replica is cancelled rather than replay held up for longer: lag takes a region out of DNS at 5 s, and a read that
    # is cancelled is read elsewhere.
    max_standby_streaming_delay = { value = "3000", static = false }
    # Replicas say which rows they still read, so that few reads are cancelled at all.
    hot_standby_feedback = { value = "1", static = false }
    # Statements that take longer than this are said in the log.
    log_min_duration_statement = { value = "1000", static = false }
  }
}

resource "aws_db_instance" "primary" {
  # checkov:skip=CKV_AWS_118:Performance Insights tells of what Postgres does; what the machine does is in CloudWatch by the minute.
  # checkov:skip=CKV_AWS_133:There are backups: checkov does not read optional attributes of variables. tests/topology.tftest.hcl holds it.
  # checkov:skip=CKV_AWS_161:Mainstay logs in with a password from a URL; tokens of IAM end after 15 minutes, which pools outlive.

  identifier = "${local.full_name}-primary"

  engine         = "postgres"
  engine_version = var.database.engine_version
  instance_class = var.database.instance_class
  db_name        = "mainstay"

  storage_type          = "gp3"
  allocated_storage     = var.database.storage_gib
  max_allocated_storage = var.database.storage_max_gib
  storage_encrypted     = true
  kms_key_id            = module.us_east_1.kms_key_arn

  # Who migrates. RDS could make and keep this password itself, but not for an instance that has replicas.
  username            = "migrator"
  password_wo         = var.secrets.database_owner_password
  password_wo_version = var.secrets_version

  db_subnet_group_name   = module.us_east_1.database.subnet_group_name
  parameter_group_name   = module.us_east_1.database.parameter_group_name
  vpc_security_group_ids = [module.us_east_1.database.security_group_id]
  publicly_accessible    = false
  ca_cert_identifier     = "rds-ca-rsa2048-g1"

  # A standby in another zone, for a failure of a machine or a zone: it takes over under the same name, with nothing lost.
  multi_az = true
  # Replicas follow what backups need, so there are none without.
  backup_retention_period   = var.database.backup_days
  copy_tags_to_snapshot     = true
  deletion_protection       = true
  skip_final_snapshot       = false
  final_snapshot_identifier = "${local.full_name}-primary-last"

  performance_insights_enabled    = true
  performance_insights_kms_key_id = module.us_east_1.kms_key_arn
  enabled_cloudwatch_logs_exports = ["postgresql"]
  auto_minor_version_upgrade      = true
}
