# CloudFront before the origins. Two kinds of requests: what may be kept fails over to a second origin, all the rest goes to the
# regional origin alone and is moved to another region by DNS. An origin group serves GET, HEAD and OPTIONS only, and a behaviour
# that has one may not even allow other methods, so there is no way to have both in one.

locals {
  read_methods = ["GET", "HEAD", "OPTIONS"]
  all_methods  = ["GET", "HEAD", "OPTIONS", "PUT", "POST", "PATCH", "DELETE"]

  # Reads give up early, since somebody else can answer them: 4 s for one that cannot be connected to, twice a statement's longest
  # time for one that is silent. CloudFront's own 10 s three times, or 30 s three times, are what viewers do not wait for.
  reads_timeout_seconds = ceil(local.statement_timeout_seconds + 1)
  # The rest is answered by nobody else: longer than the server takes at most, a forwarded request and its way included, or what
  # the origin still did would be a 504 here.
  direct_timeout_seconds = ceil(local.request_timeout_seconds + 5)

  origins = {
    regional = {
      host         = local.origin_host
      read_timeout = local.direct_timeout_seconds
      attempts     = 2
    }
    regional-reads = { host = local.origin_host, read_timeout = local.reads_timeout_seconds, attempts = 2 }
    failover       = { host = local.failover_host, read_timeout = local.reads_timeout_seconds, attempts = 2 }
  }

  # What CloudFront keeps of errors although they say `no-store`, for 10 s where nothing is said here: a 404 of one caller would be
  # everybody's, and a 503 would outlive what caused it.
  kept_errors = [400, 403, 404, 405, 414, 416, 500, 501, 502, 503, 504]
}

resource "aws_cloudfront_distribution" "edge" {
  # checkov:skip=CKV_AWS_86:It logs by the newer delivery (observability.tf), which checkov does not know.
  # checkov:skip=CKV_AWS_305:An API has no root document.
  # checkov:skip=CKV_AWS_374:Whom to serve is not for infrastructure to say.
  # checkov:skip=CKV2_AWS_47:The rules against Log4j are there (waf.tf), in a dynamic block, which checkov does not read. tests/edge.tftest.hcl holds it.

  comment         = local.full_name
  enabled         = true
  is_ipv6_enabled = true
  http_version    = "http2and3"
  price_class     = var.price_class
  aliases         = [var.domain_name]
  web_acl_id      = aws_wafv2_web_acl.edge.arn

  dynamic "origin" {
    for_each = local.origins

    content {
      origin_id           = origin.key
      domain_name         = origin.value.host
      connection_attempts = origin.value.attempts
      connection_timeout  = 2

      custom_origin_config {
        origin_protocol_policy   = "https-only"
        origin_ssl_protocols     = ["TLSv1.2"]
        http_port                = 80
        https_port               = 443
        origin_read_timeout      = origin.value.read_timeout
        origin_keepalive_timeout = local.edge_keep_alive_seconds
      }

      # Replaces what a client sends under this name.
      custom_header {
        name  = "X-Origin-Verify"
        value = local.origin_secret_sent
      }
    }
  }

  origin_group {
    origin_id = "reads"

    # What a regional origin says when it cannot answer, and what CloudFront says for one that does not. No 4xx: those are answers.
    failover_criteria {
      status_codes = [500, 502, 503, 504]
    }

    member {
      origin_id = "regional-reads"
    }

    member {
      origin_id = "failover"
    }
  }

  dynamic "ordered_cache_behavior" {
    for_each = var.cacheable_paths

    content {
      path_pattern               = ordered_cache_behavior.value
      target_origin_id           = "reads"
      viewer_protocol_policy     = "https-only"
      allowed_methods            = local.read_methods
      cached_methods             = ["GET", "HEAD"]
      compress                   = true
      cache_policy_id            = aws_cloudfront_cache_policy.reads.id
      origin_request_policy_id   = aws_cloudfront_origin_request_policy.reads.id
      response_headers_policy_id = aws_cloudfront_response_headers_policy.this["reads"].id
    }
  }

  default_cache_behavior {
    target_origin_id       = "regional"
    viewer_protocol_policy = "https-only"
    allowed_methods        = local.all_methods
    cached_methods         = ["GET", "HEAD"]
    # The origin compresses what is worth it; here nothing may be changed on its way.
    compress                   = false
    cache_policy_id            = aws_cloudfront_cache_policy.never.id
    origin_request_policy_id   = aws_cloudfront_origin_request_policy.direct.id
    response_headers_policy_id = aws_cloudfront_response_headers_policy.this["direct"].id
  }

  dynamic "custom_error_response" {
    for_each = toset(local.kept_errors)

    content {
      error_code            = custom_error_response.value
      error_caching_min_ttl = 0
    }
  }

  viewer_certificate {
    acm_certificate_arn      = module.us_east_1.certificate_arn
    ssl_support_method       = "sni-only"
    minimum_protocol_version = "TLSv1.2_2021"
  }

  restrictions {
    geo_restriction {
      restriction_type = "none"
    }
  }

  # Of `var.settings`, which validations cannot see through what is made of it.
  lifecycle {
    precondition {
      condition     = local.edge_keep_alive_seconds < local.balancer_idle_seconds && local.balancer_idle_seconds < local.keep_alive_seconds
      error_message = "server.keep_alive must be longer than the 60 s of the load balancer, or requests meet connections that are being closed."
    }

    precondition {
      condition     = local.direct_timeout_seconds <= 60
      error_message = "limits.request_timeout must be at most 55s: CloudFront waits for 60 s at most."
    }

    precondition {
      condition     = local.reads_timeout_seconds <= 10
      error_message = "database.statement_timeout must be at most 9s, or failing over takes longer than viewers wait."
    }
  }
}
