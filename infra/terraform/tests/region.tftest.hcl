# A region's databases and Redis.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  name                     = "test-region"
  region                   = "eu-west-1"
  vpc_cidr                 = "10.21.0.0/16"
  vpc_cidrs                = { us-east-1 = "10.20.0.0/16", eu-west-1 = "10.21.0.0/16" }
  host_name                = "eu-west-1.origin.api.example.com"
  certificate_names        = ["api.example.com", "origin.api.example.com", "*.origin.api.example.com"]
  certificate_record_fqdns = ["_a.api.example.com"]
  forwarder_cidrs          = {}
  metrics_cidrs            = []
  redis_clients            = { failover = "sg-failover" }
  traces_endpoint          = ""
  log_broker               = ""
  primary                  = { region = "us-east-1", promoted = false, origin_host = "us-east-1.origin.api.example.com" }
  primary_database_arn     = "arn:aws:rds:us-east-1:123456789012:db:primary"
  primary_database_host    = "primary.example.com"
  database                 = { instance_class = "db.r7g.large", engine_version = "15", storage_max_gib = 1000, backup_days = 7 }
  database_parameters      = { max_connections = { value = "1500", static = true } }
  redis                    = { node_type = "cache.r7g.large", engine_version = "7.1", nodes = 2 }
  redis_passwords          = { serving = "test-redis-password-0123456789abcdef", reader = "test-redis-reader-password-0123456789abcdef" }
  secrets_version          = 1
  task = {
    image                    = "registry.example.com/mainstay:1.0.0"
    environment              = {}
    port                     = 8080
    admin_port               = 9090
    connections_max          = 10000
    idle_timeout_seconds     = 60
    deregistration_seconds   = 30
    shutdown_timeout_seconds = 25
    stop_timeout_seconds     = 35
  }
  service      = { cpu = 1024, memory_mib = 2048, tasks_min = 2, tasks_max = 8, cpu_percent = 50, requests_per_minute = 120000 }
  distribution = { id = "EMOCK", arn = "arn:aws:cloudfront::123456789012:distribution/EMOCK" }
  log_days     = 30
  alarm_emails = []
}

run "a_region" {
  command = plan

  module {
    source = "./modules/region"
  }

  # Postgres

  assert {
    condition     = aws_db_instance.replica.replicate_source_db == "arn:aws:rds:us-east-1:123456789012:db:primary"
    error_message = "A replica of another region, or with a subnet group, is named by its primary's ARN."
  }
  assert {
    condition     = aws_db_instance.replica.storage_encrypted && !aws_db_instance.replica.publicly_accessible && aws_db_instance.replica.deletion_protection
    error_message = "The replica is encrypted with a key of its own region, private and protected."
  }
  assert {
    condition     = contains([for parameter in aws_db_parameter_group.this.parameter : "${parameter.name}=${parameter.value}/${parameter.apply_method}"], "max_connections=1500/pending-reboot")
    error_message = "A standby has the primary's max_connections, or it does not start."
  }
  assert {
    condition     = aws_db_parameter_group.this.family == "postgres15"
    error_message = "The parameters are of the engine's version."
  }
  assert {
    condition     = tomap({ for region, rule in aws_vpc_security_group_ingress_rule.database : region => rule.cidr_ipv4 }) == var.vpc_cidrs
    error_message = "Every region reaches a database that may become the primary, and nobody else does."
  }

  # Redis

  assert {
    condition     = aws_vpc_security_group_ingress_rule.redis["failover"].referenced_security_group_id == "sg-failover" && length(aws_vpc_security_group_ingress_rule.redis) == 2
    error_message = "The failover service reaches Redis, and nobody but it and the regional origin does."
  }
  assert {
    condition     = aws_elasticache_replication_group.this.transit_encryption_enabled && aws_elasticache_replication_group.this.at_rest_encryption_enabled == "true"
    error_message = "Redis is encrypted."
  }
  assert {
    condition     = aws_elasticache_replication_group.this.automatic_failover_enabled && aws_elasticache_replication_group.this.multi_az_enabled && aws_elasticache_replication_group.this.num_cache_clusters >= 2
    error_message = "Redis fails over, and has a node that can be read meanwhile."
  }
  assert {
    condition     = alltrue([for parameter in aws_elasticache_parameter_group.this.parameter : parameter.value == "volatile-lru" if parameter.name == "maxmemory-policy"])
    error_message = "The stream of changes and the list of hard purges are never evicted."
  }
  assert {
    condition     = aws_elasticache_user.reader.access_string == "on ~mainstay:* -@all +@connection +get +pttl +xread"
    error_message = "The failover origin's user has the rights of docs/failover.md and no others."
  }
  assert {
    condition     = strcontains(file("../../docs/failover.md"), replace(trimprefix(aws_elasticache_user.reader.access_string, "on "), "/^/", ">password "))
    error_message = "These rights are not those of docs/failover.md."
  }
  assert {
    condition     = startswith(aws_elasticache_user.default.access_string, "off ")
    error_message = "Nobody comes to Redis without a name."
  }
  assert {
    condition     = startswith(aws_elasticache_user.serving.access_string, "on ~mainstay:* ") && strcontains(aws_elasticache_user.serving.access_string, "-@dangerous")
    error_message = "The regional origin sees its own keys alone, and can flush nothing."
  }
  assert {
    condition     = alltrue([for right in ["&mainstay:*", "+subscribe", "+publish", "+@scripting", "+info"] : contains(split(" ", aws_elasticache_user.serving.access_string), right)]) && endswith(aws_elasticache_user.serving.access_string, "-@dangerous +info")
    error_message = "The regional origin may do all that it does: who waits for another's fill hears of it on a channel, and INFO is allowed after what is dangerous was taken away."
  }

  # Secrets

  assert {
    condition     = keys(module.secrets.arns) == ["ADMIN_TOKEN", "DATABASE_READ_REPLICA_URL", "DATABASE_URL", "LOG_AMQP_URL", "ORIGIN_SECRET", "REDIS_URL", "TOKEN_SECRET"] && !contains(module.service.task.secret_names, "LOG_AMQP_URL")
    error_message = "Without a broker tasks are told of none, and its secret stays: for a week after it has gone nobody could make it again."
  }

  # Network

  assert {
    condition     = length(distinct([for subnet in concat(values(aws_subnet.public), values(aws_subnet.private)) : subnet.cidr_block])) == 4 && length(aws_nat_gateway.this) == 2
    error_message = "Two zones, each with its own subnets and its own way out."
  }
  assert {
    condition     = aws_kms_key.this.enable_key_rotation
    error_message = "The key is rotated."
  }
}

run "whose_replica_was_promoted" {
  command = plan

  variables {
    primary = { region = "eu-west-1", promoted = true, origin_host = "eu-west-1.origin.api.example.com" }
  }

  module {
    source = "./modules/region"
  }

  assert {
    condition     = aws_db_instance.replica.backup_retention_period == 7 && aws_db_instance.replica.multi_az
    error_message = "What is the primary now has backups and a standby as the primary had."
  }
  assert {
    condition     = strcontains(file("modules/region/database.tf"), "replicate_source_db = local.is_promoted ? null : var.primary_database_arn") && local.is_promoted
    error_message = "What is promoted follows nobody."
  }
  assert {
    condition     = !contains(keys(module.service.task.environment), "PRIMARY_ORIGIN")
    error_message = "The primary's region sends nothing to itself."
  }
  assert {
    condition     = contains(keys(module.secrets.arns), "DATABASE_READ_REPLICA_URL") && !contains(module.service.task.secret_names, "DATABASE_READ_REPLICA_URL")
    error_message = "It has no replica now, and the secret stays for when it has one again."
  }
}
