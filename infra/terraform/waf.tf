# Before CloudFront: what is known to be hostile, and who asks far too often. Mainstay's own limits are finer and stand behind it.

locals {
  managed_rules = {
    AWSManagedRulesAmazonIpReputationList = { priority = 10, counted = [] }
    AWSManagedRulesKnownBadInputsRuleSet  = { priority = 20, counted = [] }
    # Bodies above 8 KiB are counted and not refused: Mainstay takes up to limits.body_bytes_max, and says 413 itself.
    AWSManagedRulesCommonRuleSet = { priority = 30, counted = ["SizeRestrictions_BODY"] }
  }
}

resource "aws_wafv2_web_acl" "edge" {
  # checkov:skip=CKV_AWS_192:The rules are there, in a dynamic block, which checkov does not read. tests/edge.tftest.hcl holds it.

  name        = local.full_name
  description = "Before the distribution of ${local.full_name}."
  scope       = "CLOUDFRONT"

  default_action {
    allow {}
  }

  rule {
    name     = "rate"
    priority = 0

    action {
      block {
        custom_response {
          response_code = 429
        }
      }
    }

    statement {
      rate_based_statement {
        limit              = var.waf_requests_per_5_minutes
        aggregate_key_type = "IP"
      }
    }

    visibility_config {
      metric_name                = "rate"
      cloudwatch_metrics_enabled = true
      sampled_requests_enabled   = true
    }
  }

  dynamic "rule" {
    for_each = local.managed_rules

    content {
      name     = rule.key
      priority = rule.value.priority

      override_action {
        none {}
      }

      statement {
        managed_rule_group_statement {
          vendor_name = "AWS"
          name        = rule.key

          dynamic "rule_action_override" {
            for_each = rule.value.counted

            content {
              name = rule_action_override.value

              action_to_use {
                count {}
              }
            }
          }
        }
      }

      visibility_config {
        metric_name                = rule.key
        cloudwatch_metrics_enabled = true
        sampled_requests_enabled   = true
      }
    }
  }

  visibility_config {
    metric_name                = local.full_name
    cloudwatch_metrics_enabled = true
    sampled_requests_enabled   = true
  }
}

# The name must begin like this, or WAF does not find it.
resource "aws_cloudwatch_log_group" "waf" {
  # checkov:skip=CKV_AWS_338:As long as log_days says; a year of it costs more than it tells.

  name              = "aws-waf-logs-${local.full_name}"
  retention_in_days = var.log_days
  kms_key_id        = module.us_east_1.kms_key_arn
}

resource "aws_wafv2_web_acl_logging_configuration" "edge" {
  resource_arn            = aws_wafv2_web_acl.edge.arn
  log_destination_configs = [aws_cloudwatch_log_group.waf.arn]

  # Only what was refused or counted; all that passes is in CloudFront's own log.
  logging_filter {
    default_behavior = "DROP"

    filter {
      behavior    = "KEEP"
      requirement = "MEETS_ANY"

      condition {
        action_condition {
          action = "BLOCK"
        }
      }

      condition {
        action_condition {
          action = "COUNT"
        }
      }
    }
  }

  redacted_fields {
    single_header {
      name = "authorization"
    }
  }

  redacted_fields {
    single_header {
      name = "cookie"
    }
  }
}
