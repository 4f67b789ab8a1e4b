# Alarms of what the service stands on. Those of the service itself are in modules/service.

resource "aws_sns_topic" "alarms" {
  name              = "${var.name}-alarms"
  kms_master_key_id = aws_kms_key.this.key_id
}

resource "aws_sns_topic_subscription" "alarms" {
  for_each = var.alarm_emails

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = each.key
}

locals {
  replica = { DBInstanceIdentifier = aws_db_instance.replica.identifier }
  redis   = { ReplicationGroupId = aws_elasticache_replication_group.this.replication_group_id }

  alarms = {
    replica-lag = {
      # At 5 s the region takes itself out of DNS (health.lag_max).
      description = "The replica is behind; the region is about to leave DNS, or has left it."
      namespace   = "AWS/RDS", metric = "ReplicaLag", statistic = "Average", dimensions = local.replica
      comparison  = "GreaterThanThreshold", threshold = 4
    }
    replica-storage = {
      description = "The replica has less than 5 GiB of disk left."
      namespace   = "AWS/RDS", metric = "FreeStorageSpace", statistic = "Minimum", dimensions = local.replica
      comparison  = "LessThanThreshold", threshold = 5 * 1024 * 1024 * 1024
    }
    redis-memory = {
      description = "Redis is nearly full: entries go before their time, and soon changes cannot be told."
      namespace   = "AWS/ElastiCache", metric = "DatabaseMemoryUsagePercentage", statistic = "Maximum", dimensions = local.redis
      comparison  = "GreaterThanThreshold", threshold = 90
    }
    redis-cpu = {
      description = "Redis' one thread is nearly busy; see docs/scale.md for what comes next."
      namespace   = "AWS/ElastiCache", metric = "EngineCPUUtilization", statistic = "Maximum", dimensions = local.redis
      comparison  = "GreaterThanThreshold", threshold = 80
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
  treat_missing_data  = "notBreaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
}
