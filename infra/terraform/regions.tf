# The three regions, from one module. Only what differs stands here three times.

locals {
  full_name = "${var.name}-${var.environment}"

  origin_host   = "origin.${var.domain_name}"
  failover_host = "failover.${local.origin_host}"
  region_hosts  = { for region in keys(var.vpc_cidrs) : region => "${region}.${local.origin_host}" }
  # The wildcard has the regions' names and the failover origin's.
  certificate_names = [var.domain_name, local.origin_host, "*.${local.origin_host}"]

  primary_region = var.promoted_region == "" ? "us-east-1" : var.promoted_region
  primary = {
    region      = local.primary_region
    promoted    = var.promoted_region != ""
    origin_host = local.region_hosts[local.primary_region]
  }
  primary_database_host = {
    ""             = aws_db_instance.primary.address
    us-east-1      = module.us_east_1.replica.host
    eu-west-1      = module.eu_west_1.replica.host
    ap-southeast-1 = module.ap_southeast_1.replica.host
  }[var.promoted_region]

  # What every task of every origin has.
  task = {
    image = var.image
    environment = merge(
      length(var.cors_origins) == 0 ? {} : { MAINSTAY__CORS__ORIGINS = join(",", var.cors_origins) },
      var.database.ca_file == null ? {} : { MAINSTAY__DATABASE__TLS_CA_FILE = var.database.ca_file },
      var.settings,
    )
    port                     = 8080
    admin_port               = 9090
    connections_max          = tonumber(local.effective_settings["MAINSTAY__SERVER__CONNECTIONS_MAX"])
    idle_timeout_seconds     = local.balancer_idle_seconds
    deregistration_seconds   = ceil(local.shutdown_timeout_seconds + 5)
    shutdown_timeout_seconds = local.shutdown_timeout_seconds
    stop_timeout_seconds     = ceil(local.shutdown_timeout_seconds + 10)
  }
}

module "us_east_1" {
  source    = "./modules/region"
  providers = { aws = aws }

  region          = "us-east-1"
  vpc_cidr        = var.vpc_cidrs["us-east-1"]
  host_name       = local.region_hosts["us-east-1"]
  forwarder_cidrs = merge(module.eu_west_1.nat_cidrs, module.ap_southeast_1.nat_cidrs)
  redis_clients   = {}
  traces_endpoint = lookup(var.traces_endpoints, "us-east-1", "")
  log_broker      = lookup(var.log_brokers, "us-east-1", "")

  name                     = local.full_name
  vpc_cidrs                = var.vpc_cidrs
  hosted_zone_id           = var.hosted_zone_id
  certificate_names        = local.certificate_names
  certificate_record_fqdns = local.certificate_record_fqdns
  metrics_cidrs            = var.metrics_cidrs
  primary                  = local.primary
  primary_database_arn     = aws_db_instance.primary.arn
  primary_database_host    = local.primary_database_host
  database                 = var.database
  database_parameters      = local.database_parameters
  redis                    = var.redis
  redis_passwords          = local.redis_passwords
  secrets                  = var.secrets
  secrets_version          = var.secrets_version
  task                     = local.task
  distribution             = { id = aws_cloudfront_distribution.edge.id, arn = aws_cloudfront_distribution.edge.arn }
  service                  = var.service
  log_days                 = var.log_days
  alarm_emails             = var.alarm_emails
}

module "eu_west_1" {
  source    = "./modules/region"
  providers = { aws = aws.eu_west_1 }

  region          = "eu-west-1"
  vpc_cidr        = var.vpc_cidrs["eu-west-1"]
  host_name       = local.region_hosts["eu-west-1"]
  forwarder_cidrs = merge(module.us_east_1.nat_cidrs, module.ap_southeast_1.nat_cidrs)
  redis_clients   = { failover = module.failover_balancer.target_security_group_id }
  traces_endpoint = lookup(var.traces_endpoints, "eu-west-1", "")
  log_broker      = lookup(var.log_brokers, "eu-west-1", "")

  name                     = local.full_name
  vpc_cidrs                = var.vpc_cidrs
  hosted_zone_id           = var.hosted_zone_id
  certificate_names        = local.certificate_names
  certificate_record_fqdns = local.certificate_record_fqdns
  metrics_cidrs            = var.metrics_cidrs
  primary                  = local.primary
  primary_database_arn     = aws_db_instance.primary.arn
  primary_database_host    = local.primary_database_host
  database                 = var.database
  database_parameters      = local.database_parameters
  redis                    = var.redis
  redis_passwords          = local.redis_passwords
  secrets                  = var.secrets
  secrets_version          = var.secrets_version
  task                     = local.task
  distribution             = { id = aws_cloudfront_distribution.edge.id, arn = aws_cloudfront_distribution.edge.arn }
  service                  = var.service
  log_days                 = var.log_days
  alarm_emails             = var.alarm_emails
}

module "ap_southeast_1" {
  source    = "./modules/region"
  providers = { aws = aws.ap_southeast_1 }

  region          = "ap-southeast-1"
  vpc_cidr        = var.vpc_cidrs["ap-southeast-1"]
  host_name       = local.region_hosts["ap-southeast-1"]
  forwarder_cidrs = merge(module.us_east_1.nat_cidrs, module.eu_west_1.nat_cidrs)
  redis_clients   = {}
  traces_endpoint = lookup(var.traces_endpoints, "ap-southeast-1", "")
  log_broker      = lookup(var.log_brokers, "ap-southeast-1", "")

  name                     = local.full_name
  vpc_cidrs                = var.vpc_cidrs
  hosted_zone_id           = var.hosted_zone_id
  certificate_names        = local.certificate_names
  certificate_record_fqdns = local.certificate_record_fqdns
  metrics_cidrs            = var.metrics_cidrs
  primary                  = local.primary
  primary_database_arn     = aws_db_instance.primary.arn
  primary_database_host    = local.primary_database_host
  database                 = var.database
  database_parameters      = local.database_parameters
  redis                    = var.redis
  redis_passwords          = local.redis_passwords
  secrets                  = var.secrets
  secrets_version          = var.secrets_version
  task                     = local.task
  distribution             = { id = aws_cloudfront_distribution.edge.id, arn = aws_cloudfront_distribution.edge.arn }
  service                  = var.service
  log_days                 = var.log_days
  alarm_emails             = var.alarm_emails
}

# Each with each: tasks of every region ask the primary, and any replica may become it.

module "us_east_1_to_eu_west_1" {
  source    = "./modules/peering"
  providers = { aws.requester = aws, aws.accepter = aws.eu_west_1 }

  name      = local.full_name
  requester = module.us_east_1.network
  accepter  = module.eu_west_1.network
}

module "us_east_1_to_ap_southeast_1" {
  source    = "./modules/peering"
  providers = { aws.requester = aws, aws.accepter = aws.ap_southeast_1 }

  name      = local.full_name
  requester = module.us_east_1.network
  accepter  = module.ap_southeast_1.network
}

module "eu_west_1_to_ap_southeast_1" {
  source    = "./modules/peering"
  providers = { aws.requester = aws.eu_west_1, aws.accepter = aws.ap_southeast_1 }

  name      = local.full_name
  requester = module.eu_west_1.network
  accepter  = module.ap_southeast_1.network
}
