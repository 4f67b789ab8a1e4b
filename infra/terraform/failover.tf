# The second origin: `MODE=failover`, in another region than the primary, with a load balancer of its own and tasks that run all
# the time. It reads the Redis of its region and writes nothing to it, and needs no database; with `source = "read-only"` it fills
# what nobody has stored from the region's replica, as a user that may only read.

module "failover_balancer" {
  source    = "./modules/balancer"
  providers = { aws = aws.eu_west_1 }

  name                   = "${local.full_name}-failover"
  region                 = "eu-west-1"
  vpc_id                 = module.eu_west_1.network.vpc_id
  subnet_ids             = module.eu_west_1.public_subnet_ids
  certificate_arn        = module.eu_west_1.certificate_arn
  hosted_zone_id         = var.hosted_zone_id
  host_name              = local.failover_host
  port                   = local.task.port
  admin_port             = local.task.admin_port
  idle_timeout_seconds   = local.task.idle_timeout_seconds
  deregistration_seconds = local.task.deregistration_seconds
  # Nobody's DNS depends on it: CloudFront asks it when the other origin fails, whatever its health.
  dns_checks    = false
  metrics_cidrs = var.metrics_cidrs
}

locals {
  failover_reads_database = var.failover_service.source == "read-only"
  # Both may only read: nothing of it can reach what a regional origin would trust.
  failover_users      = { redis = module.eu_west_1.redis.reader_user, database = module.eu_west_1.replica.user }
  failover_redis_host = module.eu_west_1.redis.reader_host
  # A replica that has lost its primary stays as it was for ever.
  failover_database_host = var.promoted_region == "" ? module.eu_west_1.replica.host : local.primary_database_host
  # Of the region that it runs in.
  failover_log_broker      = lookup(var.log_brokers, "eu-west-1", "")
  failover_traces_endpoint = lookup(var.traces_endpoints, "eu-west-1", "")
}

module "failover_secrets" {
  source    = "./modules/secrets"
  providers = { aws = aws.eu_west_1 }

  name        = "${local.full_name}/failover"
  kms_key_arn = module.eu_west_1.kms_key_arn
  names = setunion(
    ["ADMIN_TOKEN", "ORIGIN_SECRET", "REDIS_URL"],
    local.failover_reads_database ? ["DATABASE_READ_REPLICA_URL"] : [],
    local.failover_log_broker == "" ? [] : ["LOG_AMQP_URL"],
  )
  # Both come and go with a variable: whoever tries one out gets it back within the week.
  kept = ["DATABASE_READ_REPLICA_URL", "LOG_AMQP_URL"]
  contents = {
    ADMIN_TOKEN               = var.secrets.admin_token
    LOG_AMQP_URL              = local.failover_log_broker == "" ? "" : replace(local.failover_log_broker, "@", ":${var.secrets.log_broker_password}@")
    ORIGIN_SECRET             = var.secrets.origin_secret
    REDIS_URL                 = "rediss://${local.failover_users.redis}:${var.secrets.redis_reader_password}@${local.failover_redis_host}:6379"
    DATABASE_READ_REPLICA_URL = "postgres://${local.failover_users.database}:${var.secrets.database_reader_password}@${local.failover_database_host}:5432/mainstay?${local.database_options}"
  }
  contents_version = parseint(substr(sha256(jsonencode([
    var.secrets_version, local.failover_redis_host, local.failover_database_host, local.database_options,
    local.failover_log_broker,
  ])), 0, 8), 16)
}

module "failover_service" {
  source    = "./modules/service"
  providers = { aws = aws.eu_west_1 }

  name              = "${local.full_name}-failover"
  region            = "eu-west-1"
  cluster_arn       = module.eu_west_1.cluster.arn
  cluster_name      = module.eu_west_1.cluster.name
  subnet_ids        = module.eu_west_1.private_subnet_ids
  security_group_id = module.failover_balancer.target_security_group_id
  target_group_arn  = module.failover_balancer.target_group_arn
  metric_dimensions = module.failover_balancer.metric_dimensions

  image      = local.task.image
  cpu        = var.failover_service.cpu
  memory_mib = var.failover_service.memory_mib
  environment = merge(
    { REGION = "failover", MODE = "failover", FAILOVER_SOURCE = var.failover_service.source },
    local.failover_traces_endpoint == "" ? {} : { OTEL_EXPORTER_OTLP_ENDPOINT = local.failover_traces_endpoint },
    local.task.environment,
  )
  secrets     = module.failover_secrets.value_from
  kms_key_arn = module.eu_west_1.kms_key_arn
  port        = local.task.port
  admin_port  = local.task.admin_port

  connections_max          = local.task.connections_max
  shutdown_timeout_seconds = local.task.shutdown_timeout_seconds
  stop_timeout_seconds     = local.task.stop_timeout_seconds

  tasks_min           = var.failover_service.tasks_min
  tasks_max           = var.failover_service.tasks_max
  cpu_percent         = var.service.cpu_percent
  requests_per_minute = var.service.requests_per_minute
  # It answers 503 to what it does not have, which is what it is for: only very many are news.
  errors_per_minute_max = 6000

  log_days        = var.log_days
  alarm_topic_arn = module.eu_west_1.alarm_topic_arn
}
