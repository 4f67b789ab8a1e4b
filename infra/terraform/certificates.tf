# The certificates are in modules/region, one a region: CloudFront takes the one of us-east-1, each load balancer its own. ACM asks
# for the same record for the same name in every region of an account, so those of us-east-1 prove them all; and a wildcard is
# proved by the record of the name that it stands below.

resource "aws_route53_record" "certificate" {
  for_each = toset([var.domain_name, local.origin_host])

  zone_id = var.hosted_zone_id
  name    = local.certificate_options[each.key].resource_record_name
  type    = local.certificate_options[each.key].resource_record_type
  records = [local.certificate_options[each.key].resource_record_value]
  ttl     = 300
  # Another certificate of this account may have asked for the same record before.
  allow_overwrite = true
}

locals {
  certificate_options      = { for option in module.us_east_1.certificate_options : option.domain_name => option }
  certificate_record_fqdns = values(aws_route53_record.certificate)[*].fqdn
}
