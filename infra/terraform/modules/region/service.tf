resource "aws_ecs_cluster" "this" {
  name = var.name

  setting {
    name  = "containerInsights"
    value = "enabled"
  }
}

# One certificate for all names of the origins and for the clients' name, since CloudFront sends that as Host where it may not
# cache. Every region's has the same names, so one set of records proves them all.
resource "aws_acm_certificate" "this" {
  domain_name               = var.certificate_names[0]
  subject_alternative_names = slice(var.certificate_names, 1, length(var.certificate_names))
  validation_method         = "DNS"

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_acm_certificate_validation" "this" {
  certificate_arn         = aws_acm_certificate.this.arn
  validation_record_fqdns = var.certificate_record_fqdns
}

module "balancer" {
  source = "../balancer"

  name                   = var.name
  region                 = var.region
  vpc_id                 = aws_vpc.this.id
  subnet_ids             = values(aws_subnet.public)[*].id
  certificate_arn        = aws_acm_certificate_validation.this.certificate_arn
  hosted_zone_id         = var.hosted_zone_id
  host_name              = var.host_name
  port                   = var.task.port
  admin_port             = var.task.admin_port
  idle_timeout_seconds   = var.task.idle_timeout_seconds
  deregistration_seconds = var.task.deregistration_seconds
  dns_checks             = true
  forwarder_cidrs        = var.forwarder_cidrs
  metrics_cidrs          = var.metrics_cidrs
}

module "service" {
  source = "../service"

  name              = "${var.name}-regional"
  region            = var.region
  cluster_arn       = aws_ecs_cluster.this.arn
  cluster_name      = aws_ecs_cluster.this.name
  subnet_ids        = values(aws_subnet.private)[*].id
  security_group_id = module.balancer.target_security_group_id
  target_group_arn  = module.balancer.target_group_arn
  metric_dimensions = module.balancer.metric_dimensions

  image      = var.task.image
  cpu        = var.service.cpu
  memory_mib = var.service.memory_mib
  environment = merge(
    { REGION = var.region, MODE = "regional" },
    # What needs the primary goes there whole. In its own region there is nowhere to send it.
    local.is_primary ? {} : { PRIMARY_ORIGIN = "https://${var.primary.origin_host}" },
    { MAINSTAY__NODES__REGIONS = join(",", compact(["primary=${var.primary.region}", local.has_replica ? "replica-1=${var.region}" : ""])) },
    # One region tells CloudFront of purges, since each that tells pays for every path.
    local.is_primary ? { MAINSTAY__EDGE__CLOUDFRONT_DISTRIBUTION_ID = var.distribution.id } : {},
    var.traces_endpoint == "" ? {} : { OTEL_EXPORTER_OTLP_ENDPOINT = var.traces_endpoint },
    var.task.environment,
  )
  distribution_arns = local.is_primary ? { edge = var.distribution.arn } : {}

  secrets     = module.secrets.value_from
  kms_key_arn = aws_kms_key.this.arn
  port        = var.task.port
  admin_port  = var.task.admin_port

  connections_max          = var.task.connections_max
  shutdown_timeout_seconds = var.task.shutdown_timeout_seconds
  stop_timeout_seconds     = var.task.stop_timeout_seconds

  tasks_min             = var.service.tasks_min
  tasks_max             = var.service.tasks_max
  cpu_percent           = var.service.cpu_percent
  requests_per_minute   = var.service.requests_per_minute
  errors_per_minute_max = 60

  log_days        = var.log_days
  alarm_topic_arn = aws_sns_topic.alarms.arn
}
