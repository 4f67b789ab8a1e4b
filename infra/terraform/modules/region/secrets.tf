# What the tasks of this region are told in secret: whole URLs, since that is how Mainstay takes them.

locals {
  is_primary  = var.primary.region == var.region
  is_promoted = var.primary.promoted && local.is_primary

  # A replica whose primary is gone is none: where another one was promoted, this region reads the new primary until it has a new
  # replica. In the promoted one's own region primary and replica would be one.
  has_replica = !var.primary.promoted

  # May not write, even where it comes to the primary (roles.sql).
  replica_user = "reader"

  # Without the roots of RDS in the image the connection is encrypted and the server's name is not checked.
  database_options = var.database.ca_file == null ? "sslmode=require" : "sslmode=verify-full"

  redis_host = aws_elasticache_replication_group.this.primary_endpoint_address

  secret_names = setunion(
    ["ADMIN_TOKEN", "DATABASE_URL", "ORIGIN_SECRET", "REDIS_URL", "TOKEN_SECRET"],
    local.has_replica ? ["DATABASE_READ_REPLICA_URL"] : [],
    var.log_broker == "" ? [] : ["LOG_AMQP_URL"],
  )

  # Everything of the contents that is no secret, and the count of those that are: another number where any of it has changed.
  secrets_version = parseint(substr(sha256(jsonencode([
    var.secrets_version, var.primary_database_host, aws_db_instance.replica.address, local.redis_host, local.database_options,
    var.log_broker,
  ])), 0, 8), 16)
}

module "secrets" {
  source = "../secrets"

  name        = "${var.name}/regional"
  kms_key_arn = aws_kms_key.this.arn
  names       = local.secret_names
  # Both come and go with a variable: whoever tries one out gets it back within the week.
  kept = ["DATABASE_READ_REPLICA_URL", "LOG_AMQP_URL"]
  contents = {
    ADMIN_TOKEN               = var.secrets.admin_token
    DATABASE_URL              = "postgres://serving:${var.secrets.database_serving_password}@${var.primary_database_host}:5432/mainstay?${local.database_options}"
    DATABASE_READ_REPLICA_URL = "postgres://${local.replica_user}:${var.secrets.database_reader_password}@${aws_db_instance.replica.address}:5432/mainstay?${local.database_options}"
    LOG_AMQP_URL              = var.log_broker == "" ? "" : replace(var.log_broker, "@", ":${var.secrets.log_broker_password}@")
    ORIGIN_SECRET             = var.secrets.origin_secret
    REDIS_URL                 = "rediss://serving:${var.secrets.redis_password}@${local.redis_host}:6379"
    TOKEN_SECRET              = var.secrets.token_secret
  }
  contents_version = local.secrets_version
}
