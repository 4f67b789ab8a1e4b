# What is run on the primary and ends: `mainstay migrate`, before each roll-out, and the roles that it grants to. Both as the
# owner, whom no task that serves knows.

module "migration_secrets" {
  source = "./modules/secrets"

  name        = "${local.full_name}/migration"
  kms_key_arn = module.us_east_1.kms_key_arn
  names       = ["DATABASE_DIRECT_URL", "DATABASE_URL", "PGPASSWORD", "READER_PASSWORD", "SERVING_PASSWORD"]
  contents = {
    DATABASE_DIRECT_URL = "postgres://migrator:${var.secrets.database_owner_password}@${local.primary_database_host}:5432/mainstay?${local.database_options}"
    # Whom migrate grants to is the user of this one.
    DATABASE_URL     = "postgres://serving:${var.secrets.database_serving_password}@${local.primary_database_host}:5432/mainstay?${local.database_options}"
    PGPASSWORD       = var.secrets.database_owner_password
    READER_PASSWORD  = var.secrets.database_reader_password
    SERVING_PASSWORD = var.secrets.database_serving_password
  }
  contents_version = parseint(substr(sha256(jsonencode([var.secrets_version, local.primary_database_host, local.database_options])), 0, 8), 16)
}

locals {
  # Without the roots of RDS in the image the connection is encrypted and the server's name is not checked.
  database_options = var.database.ca_file == null ? "sslmode=require" : "sslmode=verify-full"
}

module "migrate" {
  source = "./modules/command"

  name        = "${local.full_name}-migrate"
  region      = "us-east-1"
  image       = var.image
  command     = ["migrate"]
  environment = merge({ LOG_FORMAT = "json" }, local.task.environment)
  secrets     = { for name in ["DATABASE_DIRECT_URL", "DATABASE_URL"] : name => module.migration_secrets.value_from[name] }
  kms_key_arn = module.us_east_1.kms_key_arn
  log_days    = var.log_days
}

module "database_roles" {
  source = "./modules/command"

  name    = "${local.full_name}-roles"
  region  = "us-east-1"
  image   = var.psql_image
  command = ["sh", "-ec", "printf '%s' \"$ROLES_SQL\" | psql --no-psqlrc --set ON_ERROR_STOP=1"]
  environment = {
    PGHOST     = local.primary_database_host
    PGUSER     = "migrator"
    PGDATABASE = "mainstay"
    PGSSLMODE  = "require"
    ROLES_SQL  = file("${path.module}/roles.sql")
  }
  secrets     = { for name in ["PGPASSWORD", "READER_PASSWORD", "SERVING_PASSWORD"] : name => module.migration_secrets.value_from[name] }
  kms_key_arn = module.us_east_1.kms_key_arn
  log_days    = var.log_days
}
