output "url" {
  description = "Where clients ask."
  value       = "https://${var.domain_name}"
}

output "distribution_id" {
  description = "The distribution, for invalidations."
  value       = aws_cloudfront_distribution.edge.id
}

output "origin_urls" {
  description = "Each region's origin, past CloudFront: reachable for CloudFront, Route 53's checkers and the other regions."
  value       = { for region, host in local.region_hosts : region => "https://${host}" }
}

output "health_check_ids" {
  description = "Route 53's health check of each region."
  value       = { for region, check in aws_route53_health_check.region : region => check.id }
}

output "services" {
  description = "Every service, with its region, cluster, task definition family and log group: what a pipeline updates."
  value = merge(
    { for region, origin in local.regions : region => merge({ region = region }, origin.service) },
    {
      failover = {
        region      = "eu-west-1"
        cluster     = module.eu_west_1.cluster.name
        service     = module.failover_service.service_name
        task_family = module.failover_service.task_family
        log_group   = module.failover_service.log_group
      }
    },
  )
}

output "commands" {
  description = "What is run by `aws ecs run-task` in us-east-1: the families, the cluster, and the network they run in."
  value = {
    region             = "us-east-1"
    cluster            = module.us_east_1.cluster.name
    subnet_ids         = module.us_east_1.private_subnet_ids
    security_group_ids = [module.us_east_1.task_security_group_id]
    migrate            = module.migrate.task_family
    roles              = module.database_roles.task_family
  }
}

output "databases" {
  description = "The primary that is in use, and the replicas, by region."
  value = {
    primary_host = local.primary_database_host
    primary      = aws_db_instance.primary.identifier
    replicas     = { for region, origin in local.regions : region => origin.replica.identifier }
  }
}

output "waf_arn" {
  description = "The web ACL before the distribution."
  value       = aws_wafv2_web_acl.edge.arn
}
