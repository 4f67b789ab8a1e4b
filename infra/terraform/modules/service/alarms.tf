# Of a balancer's service: that there are tasks, and that what they answer is no error.

locals {
  alarms = {
    unhealthy = {
      description = "Fewer healthy tasks than there should be at least."
      namespace   = "AWS/ApplicationELB", metric = "HealthyHostCount", statistic = "Minimum", dimensions = var.metric_dimensions
      comparison  = "LessThanThreshold", threshold = var.tasks_min, missing = "breaching"
    }
    errors = {
      description = "Tasks answer with 5xx; the log of the service says why."
      namespace   = "AWS/ApplicationELB", metric = "HTTPCode_Target_5XX_Count", statistic = "Sum", dimensions = var.metric_dimensions
      comparison  = "GreaterThanThreshold", threshold = var.errors_per_minute_max, missing = "notBreaching"
    }
    unreachable = {
      description = "The load balancer cannot open connections to tasks."
      namespace   = "AWS/ApplicationELB", metric = "TargetConnectionErrorCount", statistic = "Sum", dimensions = var.metric_dimensions
      comparison  = "GreaterThanThreshold", threshold = 10, missing = "notBreaching"
    }
    memory = {
      description = "Tasks use nearly all their memory, beyond which they are killed."
      namespace   = "AWS/ECS", metric = "MemoryUtilization", statistic = "Maximum"
      dimensions  = { ClusterName = var.cluster_name, ServiceName = var.name }
      comparison  = "GreaterThanThreshold", threshold = 90, missing = "notBreaching"
    }
  }
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  statistic           = each.value.statistic
  dimensions          = each.value.dimensions
  period              = 60
  evaluation_periods  = 3
  comparison_operator = each.value.comparison
  threshold           = each.value.threshold
  treat_missing_data  = each.value.missing
  alarm_actions       = [var.alarm_topic_arn]
  ok_actions          = [var.alarm_topic_arn]
}
