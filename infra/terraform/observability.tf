# What is everybody's: the edge and the health that DNS sees. Its metrics are in us-east-1. Alarms of a region are in its module,
# and what happens inside a task is in its log and at /metrics.

locals {
  edge_alarms = merge(
    {
      edge-errors = {
        description = "More than 1 % of what viewers get is a 5xx: the failover origin does not make up for it."
        namespace   = "AWS/CloudFront", metric = "5xxErrorRate", statistic = "Average"
        dimensions  = { DistributionId = aws_cloudfront_distribution.edge.id, Region = "Global" }
        comparison  = "GreaterThanThreshold", threshold = 1
      }
      primary-storage = {
        description = "The primary has less than 5 GiB of disk left."
        namespace   = "AWS/RDS", metric = "FreeStorageSpace", statistic = "Minimum"
        dimensions  = { DBInstanceIdentifier = aws_db_instance.primary.identifier }
        comparison  = "LessThanThreshold", threshold = 5 * 1024 * 1024 * 1024
      }
      primary-connections = {
        description = "The primary has hardly any connections left."
        namespace   = "AWS/RDS", metric = "DatabaseConnections", statistic = "Maximum"
        dimensions  = { DBInstanceIdentifier = aws_db_instance.primary.identifier }
        comparison  = "GreaterThanThreshold", threshold = floor(0.9 * var.database.connections_max)
      }
    },
    {
      for region, check in aws_route53_health_check.region : "health-${region}" => {
        description = "/health/edge of ${region} says 503, or says nothing: DNS sends its viewers elsewhere."
        namespace   = "AWS/Route53", metric = "HealthCheckStatus", statistic = "Minimum"
        dimensions  = { HealthCheckId = check.id }
        comparison  = "LessThanThreshold", threshold = 1
      }
    },
  )
}

resource "aws_cloudwatch_metric_alarm" "edge" {
  for_each = local.edge_alarms

  alarm_name          = "${local.full_name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  statistic           = each.value.statistic
  dimensions          = each.value.dimensions
  period              = 60
  evaluation_periods  = 2
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  treat_missing_data  = "notBreaching"
  alarm_actions       = [module.us_east_1.alarm_topic_arn]
  ok_actions          = [module.us_east_1.alarm_topic_arn]
}

# CloudFront's log, with what the edge itself made of a request, by the newer way of delivery, which needs no bucket of its own.
resource "aws_cloudwatch_log_group" "edge" {
  # checkov:skip=CKV_AWS_338:As long as log_days says; a year of it costs more than it tells.

  name              = "/${local.full_name}-edge"
  retention_in_days = var.log_days
  kms_key_id        = module.us_east_1.kms_key_arn
}

resource "aws_cloudwatch_log_delivery_source" "edge" {
  name         = "${local.full_name}-edge"
  log_type     = "ACCESS_LOGS"
  resource_arn = aws_cloudfront_distribution.edge.arn
}

resource "aws_cloudwatch_log_delivery_destination" "edge" {
  name          = "${local.full_name}-edge"
  output_format = "json"

  delivery_destination_configuration {
    destination_resource_arn = aws_cloudwatch_log_group.edge.arn
  }
}

resource "aws_cloudwatch_log_delivery" "edge" {
  delivery_source_name     = aws_cloudwatch_log_delivery_source.edge.name
  delivery_destination_arn = aws_cloudwatch_log_delivery_destination.edge.arn
  # No field that holds a credential: neither cookies nor headers.
  record_fields = [
    "date", "time", "x-edge-location", "x-edge-request-id", "cs-method", "cs-uri-stem", "cs-uri-query", "sc-status",
    "x-edge-result-type", "x-edge-detailed-result-type", "time-taken", "time-to-first-byte", "sc-bytes", "c-country",
  ]
}
