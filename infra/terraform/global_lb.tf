# Which region a request goes to: CloudFront asks for the origin's name wherever it stands, and is told the nearest region that is
# well.

locals {
  regions = {
    us-east-1      = module.us_east_1
    eu-west-1      = module.eu_west_1
    ap-southeast-1 = module.ap_southeast_1
  }

  # From all over the world, so that trouble near one checker is nobody's trouble: a region is well while more than 18 % of its
  # checkers say so.
  checker_regions = ["us-east-1", "us-west-1", "us-west-2", "eu-west-1", "ap-southeast-1", "ap-northeast-1", "sa-east-1"]
}

# /health/edge, and nothing else anywhere: it says 503 as soon as the region's data is older than health.lag_max, so a region that
# lags gets no new requests while its tasks go on. With the primary dead every region says 503, and Route 53 then answers as
# though all were well: which is what is wanted, they serve what they have.
resource "aws_route53_health_check" "region" {
  for_each = local.region_hosts

  type          = "HTTPS"
  fqdn          = each.value
  port          = 443
  enable_sni    = true
  resource_path = "/health/edge"
  regions       = local.checker_regions

  # Three answers in a row at ten seconds: half a minute until a region is left. /health/edge has its own hysteresis before that.
  request_interval  = 10
  failure_threshold = 3
  measure_latency   = true

  tags = { Name = "${local.full_name}-${each.key}" }
}

resource "aws_route53_record" "origin" {
  for_each = toset(keys(local.region_hosts))

  zone_id         = var.hosted_zone_id
  name            = local.origin_host
  type            = "A"
  set_identifier  = each.key
  health_check_id = aws_route53_health_check.region[each.key].id

  latency_routing_policy {
    region = each.key
  }

  alias {
    name    = local.regions[each.key].balancer.dns_name
    zone_id = local.regions[each.key].balancer.zone_id
    # A load balancer without a living task is left at once, by its own target health, and not only after half a minute.
    evaluate_target_health = true
  }
}

# The name that clients use.
resource "aws_route53_record" "edge" {
  for_each = toset(["A", "AAAA"])

  zone_id = var.hosted_zone_id
  name    = var.domain_name
  type    = each.key

  alias {
    name    = aws_cloudfront_distribution.edge.domain_name
    zone_id = aws_cloudfront_distribution.edge.hosted_zone_id
    # CloudFront has no health that Route 53 could ask for.
    evaluate_target_health = false
  }
}
