output "network" {
  description = "What the peering needs of this side."
  value = {
    vpc_id          = aws_vpc.this.id
    cidr            = var.vpc_cidr
    route_table_ids = { for zone, table in aws_route_table.private : zone => table.id }
  }
}

output "public_subnet_ids" {
  description = "The public subnets."
  value       = values(aws_subnet.public)[*].id
}

output "private_subnet_ids" {
  description = "The private subnets."
  value       = values(aws_subnet.private)[*].id
}

output "nat_cidrs" {
  description = "The addresses from which this region's tasks reach the world, by region and zone."
  value       = { for zone, eip in aws_eip.nat : "${var.region}-${zone}" => "${eip.public_ip}/32" }
}

output "balancer" {
  description = "The load balancer, for alias records."
  value       = { dns_name = module.balancer.dns_name, zone_id = module.balancer.zone_id }
}

# Two outputs, since the records that prove the names come between them.
output "certificate_options" {
  description = "The records that prove the names of the region's certificate."
  value       = aws_acm_certificate.this.domain_validation_options
}

output "certificate_arn" {
  description = "The region's certificate, once its names are proved."
  value       = aws_acm_certificate_validation.this.certificate_arn
}

output "task_security_group_id" {
  description = "The group of the regional origin's tasks."
  value       = module.balancer.target_security_group_id
}

output "cluster" {
  description = "The ECS cluster."
  value       = { arn = aws_ecs_cluster.this.arn, name = aws_ecs_cluster.this.name }
}

output "service" {
  description = "The regional origin, as ECS and CloudWatch know it."
  value = {
    cluster     = aws_ecs_cluster.this.name
    service     = module.service.service_name
    task_family = module.service.task_family
    log_group   = module.service.log_group
  }
}

output "task" {
  description = "What a task of the regional origin has in its environment, and the names of what it is told in secret."
  value       = module.service.task
}

output "database" {
  description = "What a database in this region needs."
  value = {
    subnet_group_name    = aws_db_subnet_group.this.name
    parameter_group_name = aws_db_parameter_group.this.name
    security_group_id    = aws_security_group.database.id
  }
}

output "replica" {
  description = "The region's replica, and the user that reads it."
  value       = { host = aws_db_instance.replica.address, identifier = aws_db_instance.replica.identifier, user = local.replica_user }
}

output "redis" {
  description = "Redis: where it is written, where and as whom it can only be read, and whose tasks may come in."
  value = {
    clients      = keys(aws_vpc_security_group_ingress_rule.redis)
    reader_user  = aws_elasticache_user.reader.user_name
    primary_host = aws_elasticache_replication_group.this.primary_endpoint_address
    reader_host  = aws_elasticache_replication_group.this.reader_endpoint_address
  }
}

output "kms_key_arn" {
  description = "The region's key."
  value       = aws_kms_key.this.arn
}

output "alarm_topic_arn" {
  description = "Where the region's alarms go."
  value       = aws_sns_topic.alarms.arn
}
