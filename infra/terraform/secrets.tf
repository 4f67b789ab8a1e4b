# `var.secrets` is ephemeral: it passes through into write-only arguments. Three values are needed by arguments that are none
# (CloudFront's header, the passwords of Redis' users), and those are read back from where they were written: so they are in the
# state, marked sensitive, and in no variable and no output. It is the provider that has no other way (5.100).

module "readable_secrets" {
  source = "./modules/secrets"

  name        = "${local.full_name}/readable"
  kms_key_arn = module.us_east_1.kms_key_arn
  names       = ["ORIGIN_SECRET", "REDIS_PASSWORD", "REDIS_READER_PASSWORD"]
  contents = {
    ORIGIN_SECRET         = var.secrets.origin_secret
    REDIS_PASSWORD        = var.secrets.redis_password
    REDIS_READER_PASSWORD = var.secrets.redis_reader_password
  }
  contents_version = var.secrets_version
}

data "aws_secretsmanager_secret_version" "readable" {
  for_each = toset(["ORIGIN_SECRET", "REDIS_PASSWORD", "REDIS_READER_PASSWORD"])

  secret_id  = module.readable_secrets.arns[each.key]
  version_id = module.readable_secrets.version_ids[each.key]
}

locals {
  redis_passwords = {
    serving = data.aws_secretsmanager_secret_version.readable["REDIS_PASSWORD"].secret_string
    reader  = data.aws_secretsmanager_secret_version.readable["REDIS_READER_PASSWORD"].secret_string
  }

  # The first of the list is sent, all of it is accepted: as everywhere in Mainstay, so a rotation is three steps of which none
  # refuses anybody (README.md).
  origin_secret_sent = split(",", data.aws_secretsmanager_secret_version.readable["ORIGIN_SECRET"].secret_string)[0]
}
