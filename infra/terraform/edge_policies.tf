# What CloudFront keeps, by what it tells requests apart, and what it passes on.

resource "aws_cloudfront_cache_policy" "reads" {
  name    = "${local.full_name}-reads"
  comment = "As the origin says, up to a bound."

  # 0, or CloudFront would keep for that long what says `no-store`: strong reads, and answers that a purge has overtaken.
  min_ttl = 0
  # Of what says nothing, nothing is kept.
  default_ttl = 0
  max_ttl     = var.edge_ttl_max_seconds

  parameters_in_cache_key_and_forwarded_to_origin {
    # Each kept once for each encoding, as the client accepts it; the origin has made them once.
    enable_accept_encoding_gzip   = true
    enable_accept_encoding_brotli = true

    query_strings_config {
      query_string_behavior = "all"
    }

    # Apart from the query the only thing that makes another answer of the same path.
    headers_config {
      header_behavior = "whitelist"

      headers {
        items = ["X-Consistency"]
      }
    }

    cookies_config {
      cookie_behavior = "none"
    }
  }
}

# Whatever is passed on and is not in the key could be in one caller's answer and be kept for all. So neither Authorization, nor
# Cookie, nor Origin: CORS is added by CloudFront itself, below.
resource "aws_cloudfront_origin_request_policy" "reads" {
  name    = "${local.full_name}-reads"
  comment = "Who asks, for rate limits, and nothing that could change the answer."

  headers_config {
    header_behavior = "whitelist"

    headers {
      items = ["CloudFront-Viewer-Address"]
    }
  }

  cookies_config {
    cookie_behavior = "none"
  }

  query_strings_config {
    query_string_behavior = "none"
  }
}

resource "aws_cloudfront_cache_policy" "never" {
  name    = "${local.full_name}-never"
  comment = "Keeps nothing, whatever the origin says."

  min_ttl     = 0
  default_ttl = 0
  max_ttl     = 0

  parameters_in_cache_key_and_forwarded_to_origin {
    enable_accept_encoding_gzip   = false
    enable_accept_encoding_brotli = false

    query_strings_config {
      query_string_behavior = "none"
    }

    headers_config {
      header_behavior = "none"
    }

    cookies_config {
      cookie_behavior = "none"
    }
  }
}

# Everything that the client sent. Authorization can be passed on in no narrower way: CloudFront refuses it in a list. Host comes
# along, so the load balancers' certificates have the clients' name, too.
resource "aws_cloudfront_origin_request_policy" "direct" {
  name    = "${local.full_name}-direct"
  comment = "All that the client sent, Authorization and Host among it, and who it is."

  headers_config {
    header_behavior = "allViewerAndWhitelistCloudFront"

    headers {
      items = ["CloudFront-Viewer-Address"]
    }
  }

  cookies_config {
    cookie_behavior = "all"
  }

  query_strings_config {
    query_string_behavior = "all"
  }
}

resource "aws_cloudfront_response_headers_policy" "this" {
  # checkov:skip=CKV_AWS_259:It is enforced, for a year; preload would bind the whole domain above this name.

  for_each = { reads = length(var.cors_origins) > 0, direct = false }

  name    = "${local.full_name}-${each.key}"
  comment = each.value ? "HTTPS from now on, and CORS for what is kept." : "HTTPS from now on."

  security_headers_config {
    strict_transport_security {
      access_control_max_age_sec = 31536000
      include_subdomains         = true
      override                   = true
    }

    content_type_options {
      override = true
    }
  }

  dynamic "cors_config" {
    for_each = each.value ? [var.cors_origins] : []

    content {
      access_control_allow_credentials = false
      access_control_max_age_sec       = 86400
      origin_override                  = true

      access_control_allow_headers {
        # Those of src/http/cors.rs, here and below: who asks past the edge may send and read the same.
        items = ["authorization", "content-type", "if-none-match", "x-consistency", "x-consistency-token", "x-request-id"]
      }

      access_control_expose_headers {
        items = [
          "age", "cache-status", "etag", "ratelimit", "ratelimit-policy", "retry-after", "server-timing", "www-authenticate",
          "x-consistency-token", "x-region", "x-request-id", "x-route-primary",
        ]
      }

      access_control_allow_methods {
        items = ["GET", "HEAD", "OPTIONS"]
      }

      access_control_allow_origins {
        items = cors_config.value
      }
    }
  }
}
