# A rule that names a prefix list counts as many rules as the list has places: CloudFront's counts 55 and the checkers' 25, and a
# security group has room for 60. So each has a group of its own.

data "aws_ec2_managed_prefix_list" "cloudfront" {
  name = "com.amazonaws.global.cloudfront.origin-facing"
}

data "aws_ec2_managed_prefix_list" "checkers" {
  count = var.dns_checks ? 1 : 0

  name = "com.amazonaws.${var.region}.route53-healthchecks"
}

resource "aws_security_group" "edge" {
  # checkov:skip=CKV2_AWS_5:Attached to the load balancer, by concat(), which checkov does not follow.
  name_prefix = "${var.name}-edge-"
  description = "CloudFront to the load balancer."
  vpc_id      = var.vpc_id

  lifecycle {
    create_before_destroy = true
  }
}

# Any distribution of anybody comes from these addresses: X-Origin-Verify, which the server asks for, tells ours.
resource "aws_vpc_security_group_ingress_rule" "edge" {
  security_group_id = aws_security_group.edge.id
  description       = "HTTPS from CloudFront."
  prefix_list_id    = data.aws_ec2_managed_prefix_list.cloudfront.id
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "targets" {
  security_group_id            = aws_security_group.edge.id
  description                  = "To the tasks."
  referenced_security_group_id = aws_security_group.targets.id
  ip_protocol                  = "tcp"
  from_port                    = var.port
  to_port                      = var.port
}

resource "aws_security_group" "checkers" {
  # checkov:skip=CKV2_AWS_5:Attached to the load balancer, by concat(), which checkov does not follow.
  count = var.dns_checks ? 1 : 0

  name_prefix = "${var.name}-checkers-"
  description = "Checkers of Route 53 to the load balancer."
  vpc_id      = var.vpc_id

  lifecycle {
    create_before_destroy = true
  }
}

# They have no secret and need none: the server answers /health/* to anybody, and to them nothing else.
resource "aws_vpc_security_group_ingress_rule" "checkers" {
  count = var.dns_checks ? 1 : 0

  security_group_id = aws_security_group.checkers[0].id
  description       = "HTTPS from the checkers of Route 53."
  prefix_list_id    = data.aws_ec2_managed_prefix_list.checkers[0].id
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_security_group" "forwarders" {
  # checkov:skip=CKV2_AWS_5:Attached to the load balancer, by concat(), which checkov does not follow.
  count = length(var.forwarder_cidrs) > 0 ? 1 : 0

  name_prefix = "${var.name}-forwarders-"
  description = "Origins of other regions to the load balancer."
  vpc_id      = var.vpc_id

  lifecycle {
    create_before_destroy = true
  }
}

# What needs the primary is sent here by the other regions (PRIMARY_ORIGIN), past CloudFront, from the addresses of their NAT.
resource "aws_vpc_security_group_ingress_rule" "forwarders" {
  for_each = var.forwarder_cidrs

  security_group_id = aws_security_group.forwarders[0].id
  description       = "HTTPS from ${each.key}."
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

# Of the tasks, here because each side names the other.
resource "aws_security_group" "targets" {
  # checkov:skip=CKV2_AWS_5:Attached by the services, whose module it is handed to.
  name_prefix = "${var.name}-tasks-"
  description = "The tasks behind the load balancer."
  vpc_id      = var.vpc_id

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "balancer" {
  security_group_id            = aws_security_group.targets.id
  description                  = "The public listener, from the load balancer alone."
  referenced_security_group_id = aws_security_group.edge.id
  ip_protocol                  = "tcp"
  from_port                    = var.port
  to_port                      = var.port
}

# Operators' one-off tasks run in this group, and ask the admin listener.
resource "aws_vpc_security_group_ingress_rule" "admin" {
  security_group_id            = aws_security_group.targets.id
  description                  = "The admin listener, from tasks of this group."
  referenced_security_group_id = aws_security_group.targets.id
  ip_protocol                  = "tcp"
  from_port                    = var.admin_port
  to_port                      = var.admin_port
}

resource "aws_vpc_security_group_ingress_rule" "metrics" {
  for_each = var.metrics_cidrs

  security_group_id = aws_security_group.targets.id
  description       = "The admin listener, for /metrics."
  cidr_ipv4         = each.value
  ip_protocol       = "tcp"
  from_port         = var.admin_port
  to_port           = var.admin_port
}

# Databases and Redis, the primary of another region, registries, secrets, issuers of tokens, upstreams.
resource "aws_vpc_security_group_egress_rule" "anywhere" {
  security_group_id = aws_security_group.targets.id
  description       = "Whatever the tasks need; the groups of databases and of Redis say who may come in."
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}
