# The edge: what is cached, what fails over, what is passed on. Everything here was, or is, somebody's outage.

mock_provider "aws" {
  source = "./tests/mocks"
}

mock_provider "aws" {
  alias  = "eu_west_1"
  source = "./tests/mocks"
}

mock_provider "aws" {
  alias  = "ap_southeast_1"
  source = "./tests/mocks"
}

run "reference" {
  command = plan

  # Failing over

  assert {
    condition = alltrue([
      for behavior in concat(aws_cloudfront_distribution.edge.ordered_cache_behavior, aws_cloudfront_distribution.edge.default_cache_behavior) :
      length(setsubtract(behavior.allowed_methods, ["GET", "HEAD", "OPTIONS"])) == 0
      if contains(aws_cloudfront_distribution.edge.origin_group[*].origin_id, behavior.target_origin_id)
    ])
    error_message = "A behaviour with an origin group allows a method that changes something, which CloudFront refuses."
  }
  assert {
    condition     = aws_cloudfront_distribution.edge.default_cache_behavior[0].target_origin_id == "regional" && contains(aws_cloudfront_distribution.edge.default_cache_behavior[0].allowed_methods, "POST")
    error_message = "Everything that is not cacheable goes to the regional origin, with all methods, and not to the group."
  }
  assert {
    condition     = alltrue([for behavior in aws_cloudfront_distribution.edge.ordered_cache_behavior : behavior.target_origin_id == "reads"]) && length(aws_cloudfront_distribution.edge.ordered_cache_behavior) == length(var.cacheable_paths)
    error_message = "Cacheable paths fail over to the second origin."
  }
  assert {
    condition     = one(one(aws_cloudfront_distribution.edge.origin_group).failover_criteria).status_codes == toset([500, 502, 503, 504])
    error_message = "The group fails over on 500, 502, 503 and 504, and on no answer of another kind."
  }
  assert {
    condition     = join(",", one(aws_cloudfront_distribution.edge.origin_group).member[*].origin_id) == "regional-reads,failover"
    error_message = "The regional origin comes first, the failover origin second."
  }
  assert {
    condition = alltrue([
      for origin in aws_cloudfront_distribution.edge.origin : origin.connection_attempts * origin.connection_timeout <= 5
    ])
    error_message = "An origin that cannot be connected to is left within five seconds, not within 30."
  }
  assert {
    condition = alltrue([
      for origin in aws_cloudfront_distribution.edge.origin : origin.connection_attempts * origin.custom_origin_config[0].origin_read_timeout <= 15
      if contains(["regional-reads", "failover"], origin.origin_id)
    ])
    error_message = "An origin that is silent is left within fifteen seconds, all attempts together."
  }
  assert {
    condition = alltrue([
      for origin in aws_cloudfront_distribution.edge.origin : origin.custom_origin_config[0].origin_read_timeout > local.statement_timeout_seconds
    ])
    error_message = "A statement that takes as long as it may is waited for."
  }
  assert {
    condition = alltrue([
      for origin in aws_cloudfront_distribution.edge.origin : origin.custom_origin_config[0].origin_read_timeout > local.request_timeout_seconds + 2
      if origin.origin_id == "regional"
    ])
    error_message = "What nobody else can answer is waited for as long as the origin works on it, forwarded requests included."
  }
  assert {
    condition     = one([for origin in aws_cloudfront_distribution.edge.origin : origin.domain_name if origin.origin_id == "failover"]) == "failover.origin.api.example.com"
    error_message = "The second origin is the failover service."
  }

  # Caching

  assert {
    condition     = aws_cloudfront_cache_policy.reads.min_ttl == 0
    error_message = "With a min TTL above 0 CloudFront keeps what says no-store."
  }
  assert {
    condition     = aws_cloudfront_cache_policy.reads.max_ttl >= local.manifest_edge_seconds && local.manifest_edge_seconds == 360
    error_message = "With a max TTL below max-age + stale-while-revalidate the latter never happens (the shipped manifest has 300 + 60)."
  }
  assert {
    condition     = aws_cloudfront_cache_policy.reads.max_ttl >= 600 && local.seconds["MAINSTAY__FAILOVER__MAX_AGE"] == 600
    error_message = "The max TTL is below what the failover origin issues."
  }
  assert {
    condition     = aws_cloudfront_cache_policy.reads.default_ttl == 0
    error_message = "What says nothing is not kept."
  }
  assert {
    condition     = { for response in aws_cloudfront_distribution.edge.custom_error_response : tostring(response.error_code) => response.error_caching_min_ttl } == { for code in [400, 403, 404, 405, 414, 416, 500, 501, 502, 503, 504] : tostring(code) => 0 }
    error_message = "Every error that CloudFront keeps by itself has a TTL of 0: a 503 lives for 10 s otherwise, and the 404 of one caller is everybody's."
  }
  assert {
    condition     = alltrue([for response in aws_cloudfront_distribution.edge.custom_error_response : response.response_page_path == null || response.response_page_path == ""])
    error_message = "Problem documents are the origin's own."
  }
  assert {
    condition     = one(aws_cloudfront_cache_policy.reads.parameters_in_cache_key_and_forwarded_to_origin).query_strings_config[0].query_string_behavior == "all"
    error_message = "The query is in the key."
  }
  assert {
    condition     = one(aws_cloudfront_cache_policy.reads.parameters_in_cache_key_and_forwarded_to_origin).headers_config[0].headers[0].items == toset(["X-Consistency"])
    error_message = "X-Consistency and no other header is in the key."
  }
  assert {
    condition     = one(aws_cloudfront_cache_policy.reads.parameters_in_cache_key_and_forwarded_to_origin).cookies_config[0].cookie_behavior == "none"
    error_message = "No cookie is in the key."
  }
  assert {
    condition = (
      one(aws_cloudfront_cache_policy.reads.parameters_in_cache_key_and_forwarded_to_origin).enable_accept_encoding_gzip &&
      one(aws_cloudfront_cache_policy.reads.parameters_in_cache_key_and_forwarded_to_origin).enable_accept_encoding_brotli &&
      alltrue(aws_cloudfront_distribution.edge.ordered_cache_behavior[*].compress)
    )
    error_message = "Cached answers are kept, and compressed, for gzip and for brotli."
  }
  assert {
    condition     = alltrue([for behavior in aws_cloudfront_distribution.edge.ordered_cache_behavior : behavior.cached_methods == toset(["GET", "HEAD"])])
    error_message = "A preflight is answered for one Origin, which is not in the key: OPTIONS is not cached."
  }

  assert {
    condition = alltrue([
      for pair in setproduct(aws_cloudfront_distribution.edge.ordered_cache_behavior[*].path_pattern, local.manifest_private_paths) :
      !startswith(pair[1], trimsuffix(pair[0], "*"))
    ]) && contains(local.manifest_private_paths, "/account/balances") && contains(local.manifest_private_paths, "/api/v1/transfers")
    error_message = "A route of the manifest that has a caller, or changes something, is among the cacheable paths."
  }
  assert {
    condition = alltrue([
      for route in local.manifest_routes : anytrue([
        for pattern in aws_cloudfront_distribution.edge.ordered_cache_behavior[*].path_pattern : startswith(regex("(?m)^path *= *\"([^\"]+)\"", route)[0], trimsuffix(pattern, "*"))
      ])
      if can(regex("(?m)^ *\\[route.cache\\]", route)) && !can(regex("(?m)^auth *= *\"", route))
    ])
    error_message = "A public route of the manifest is cached, and no cacheable path covers it."
  }

  # What is passed on

  assert {
    condition = (
      aws_cloudfront_origin_request_policy.reads.headers_config[0].header_behavior == "whitelist" &&
      aws_cloudfront_origin_request_policy.reads.headers_config[0].headers[0].items == toset(["CloudFront-Viewer-Address"]) &&
      aws_cloudfront_origin_request_policy.reads.cookies_config[0].cookie_behavior == "none"
    )
    error_message = "Where answers are kept nothing is passed on that could be in them and is not in the key: no Authorization, Cookie, Origin or Host."
  }
  assert {
    condition = (
      aws_cloudfront_origin_request_policy.direct.headers_config[0].header_behavior == "allViewerAndWhitelistCloudFront" &&
      aws_cloudfront_origin_request_policy.direct.cookies_config[0].cookie_behavior == "all" &&
      aws_cloudfront_origin_request_policy.direct.query_strings_config[0].query_string_behavior == "all"
    )
    error_message = "Where nothing is kept all is passed on: Authorization goes along in no other way."
  }
  assert {
    condition     = lower(local.effective_settings["MAINSTAY__RATE_LIMIT__CLIENT_HEADER"]) == lower(one(aws_cloudfront_origin_request_policy.direct.headers_config[0].headers[0].items))
    error_message = "The header by which the origin tells clients apart is not the one that CloudFront sends."
  }
  assert {
    condition     = aws_cloudfront_cache_policy.never.max_ttl == 0 && aws_cloudfront_cache_policy.never.min_ttl == 0 && aws_cloudfront_cache_policy.never.default_ttl == 0
    error_message = "Whatever is not listed as cacheable, which is all that has a caller, is never cached."
  }
  assert {
    condition     = !aws_cloudfront_distribution.edge.default_cache_behavior[0].compress
    error_message = "What is one caller's passes as it is."
  }
  assert {
    condition     = contains(local.certificate_names, var.domain_name) && contains(local.certificate_names, local.origin_host) && alltrue([for host in concat(values(local.region_hosts), [local.failover_host]) : contains(local.certificate_names, replace(host, "/^[^.]+/", "*"))])
    error_message = "CloudFront compares the certificate with the origin's name, or with the Host that it passes on: the load balancers' certificates have them all."
  }

  # Connections

  assert {
    condition = alltrue([
      for origin in aws_cloudfront_distribution.edge.origin : origin.custom_origin_config[0].origin_keepalive_timeout < local.task.idle_timeout_seconds
    ]) && local.task.idle_timeout_seconds < local.keep_alive_seconds
    error_message = "Idle connections are closed by CloudFront first, then by the load balancer, and by the server last."
  }
  assert {
    condition = alltrue([
      for origin in aws_cloudfront_distribution.edge.origin : origin.custom_origin_config[0].origin_protocol_policy == "https-only" && origin.custom_origin_config[0].origin_ssl_protocols == toset(["TLSv1.2"])
    ])
    error_message = "Origins are asked over TLS alone."
  }
  assert {
    condition     = alltrue([for origin in aws_cloudfront_distribution.edge.origin : one(origin.custom_header).name == "X-Origin-Verify"])
    error_message = "Every origin is sent the secret."
  }
  assert {
    condition     = alltrue([for behavior in concat(aws_cloudfront_distribution.edge.ordered_cache_behavior, aws_cloudfront_distribution.edge.default_cache_behavior) : behavior.viewer_protocol_policy == "https-only"])
    error_message = "A redirect from http:// would come after the credential was sent in the clear."
  }

  # Firewall

  assert {
    condition     = contains(flatten([for rule in aws_wafv2_web_acl.edge.rule : [for statement in rule.statement : statement.managed_rule_group_statement[*].name]]), "AWSManagedRulesKnownBadInputsRuleSet")
    error_message = "The rules against Log4j are on."
  }
  assert {
    condition     = contains(flatten([for rule in aws_wafv2_web_acl.edge.rule : [for statement in rule.statement : [for group in statement.managed_rule_group_statement : group.rule_action_override[*].name]]]), "SizeRestrictions_BODY")
    error_message = "Bodies above 8 KiB are not refused."
  }
  assert {
    condition     = aws_wafv2_web_acl.edge.scope == "CLOUDFRONT"
    error_message = "The web ACL is CloudFront's."
  }
}

run "browsers" {
  command = plan

  variables {
    cors_origins = ["https://app.example.com"]
  }

  assert {
    condition     = one(one(aws_cloudfront_response_headers_policy.this["reads"].cors_config).access_control_allow_origins).items == toset(["https://app.example.com"]) && !one(aws_cloudfront_response_headers_policy.this["reads"].cors_config).access_control_allow_credentials
    error_message = "CORS of what is kept is added by CloudFront: the origin is not told the Origin."
  }
  assert {
    condition = [
      for headers in [
        one(one(aws_cloudfront_response_headers_policy.this["reads"].cors_config).access_control_allow_headers).items,
        one(one(aws_cloudfront_response_headers_policy.this["reads"].cors_config).access_control_expose_headers).items,
      ] : join(", ", sort(headers))
      ] == [
      regex("const ALLOWED: &str = \"([^\"]+)\"", file("../../src/http/cors.rs"))[0],
      regex("const EXPOSED: &str = \"([^\"]+)\"", file("../../src/http/cors.rs"))[0],
    ]
    error_message = "Scripts may send and read the same headers on paths that are kept as past the edge."
  }
  assert {
    condition     = length(aws_cloudfront_response_headers_policy.this["direct"].cors_config) == 0
    error_message = "CORS of all the rest is the origin's own."
  }
  assert {
    condition     = alltrue([for origin in values(local.regions) : origin.task.environment["MAINSTAY__CORS__ORIGINS"] == "https://app.example.com"])
    error_message = "The origins know who may read."
  }
}

run "a_secret_that_is_being_replaced" {
  command = plan

  # Known at the plan, or what is read by it would not be.
  override_module {
    target          = module.readable_secrets
    override_during = plan
    outputs = {
      arns        = { ORIGIN_SECRET = "arn:a", REDIS_PASSWORD = "arn:b", REDIS_READER_PASSWORD = "arn:c" }
      version_ids = { ORIGIN_SECRET = "1", REDIS_PASSWORD = "1", REDIS_READER_PASSWORD = "1" }
      value_from  = {}
    }
  }

  override_data {
    target          = data.aws_secretsmanager_secret_version.readable
    override_during = plan
    values          = { secret_string = "test-first-secret-0123456789abcdef,test-second-secret-0123456789abcdef" }
  }

  assert {
    condition     = nonsensitive(toset(flatten([for origin in aws_cloudfront_distribution.edge.origin : origin.custom_header[*].value]))) == toset(["test-first-secret-0123456789abcdef"])
    error_message = "Of two values the first is sent: a header with both would be neither."
  }
}
