# The load balancer: who may come in, what it takes for a living task, and how it lets one go.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  name                   = "test-balancer"
  region                 = "us-east-1"
  vpc_id                 = "vpc-1"
  subnet_ids             = ["subnet-1", "subnet-2"]
  certificate_arn        = "arn:aws:acm:us-east-1:123456789012:certificate/mock"
  host_name              = "us-east-1.origin.api.example.com"
  port                   = 8080
  admin_port             = 9090
  idle_timeout_seconds   = 60
  deregistration_seconds = 30
  dns_checks             = true
  forwarder_cidrs        = { eu-west-1-a = "192.0.2.1/32" }
  metrics_cidrs          = ["10.1.0.0/16"]
}

run "of_a_region" {
  command = apply

  module {
    source = "./modules/balancer"
  }

  assert {
    condition     = aws_lb_target_group.this.health_check[0].path == "/health/live"
    error_message = "A target's health is that its process answers: lag must not take every task out at once."
  }
  assert {
    condition     = aws_lb_target_group.this.deregistration_delay == "30"
    error_message = "Requests to a task that goes get as long as the server gives them."
  }
  assert {
    condition     = aws_lb.this.idle_timeout == 60 && aws_lb.this.drop_invalid_header_fields && aws_lb.this.desync_mitigation_mode == "strictest"
    error_message = "Idle connections end in time, and what two parsers read in two ways is dropped."
  }
  assert {
    condition     = aws_lb_listener.https.port == 443 && aws_lb_listener.https.protocol == "HTTPS" && startswith(aws_lb_listener.https.ssl_policy, "ELBSecurityPolicy-TLS13-1-2")
    error_message = "TLS alone, from 1.2 on."
  }
  assert {
    condition     = data.aws_ec2_managed_prefix_list.cloudfront.name == "com.amazonaws.global.cloudfront.origin-facing" && aws_vpc_security_group_ingress_rule.edge.prefix_list_id == data.aws_ec2_managed_prefix_list.cloudfront.id && aws_vpc_security_group_ingress_rule.edge.cidr_ipv4 == null
    error_message = "CloudFront comes in by its prefix list, and nobody by an address."
  }
  assert {
    condition     = one(data.aws_ec2_managed_prefix_list.checkers).name == "com.amazonaws.us-east-1.route53-healthchecks" && one(aws_vpc_security_group_ingress_rule.checkers).prefix_list_id == one(data.aws_ec2_managed_prefix_list.checkers).id
    error_message = "The checkers of Route 53 come in by their prefix list."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.edge.security_group_id != one(aws_vpc_security_group_ingress_rule.checkers).security_group_id
    error_message = "Both prefix lists together are 80 rules, and a group has room for 60."
  }
  assert {
    condition     = aws_lb.this.security_groups == toset([aws_security_group.edge.id, aws_security_group.checkers[0].id, aws_security_group.forwarders[0].id])
    error_message = "All groups are attached."
  }
  assert {
    condition     = alltrue([for rule in concat([aws_vpc_security_group_ingress_rule.edge], aws_vpc_security_group_ingress_rule.checkers, values(aws_vpc_security_group_ingress_rule.forwarders)) : rule.from_port == 443 && rule.to_port == 443 && rule.cidr_ipv4 != "0.0.0.0/0"])
    error_message = "Nothing but HTTPS comes in, and not from everywhere."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.forwarders["eu-west-1-a"].cidr_ipv4 == "192.0.2.1/32"
    error_message = "The other regions' requests for the primary come in."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.balancer.referenced_security_group_id == aws_security_group.edge.id && aws_vpc_security_group_ingress_rule.balancer.cidr_ipv4 == null
    error_message = "Tasks are reached through the load balancer alone."
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.admin.referenced_security_group_id == aws_security_group.targets.id && aws_vpc_security_group_ingress_rule.admin.from_port == 9090
    error_message = "The admin listener is for tasks of its own group."
  }
}

run "of_the_failover_service" {
  command = plan

  variables {
    dns_checks      = false
    forwarder_cidrs = {}
  }

  module {
    source = "./modules/balancer"
  }

  assert {
    condition     = length(aws_security_group.checkers) == 0 && length(aws_security_group.forwarders) == 0
    error_message = "Nobody but CloudFront asks it."
  }
}

run "refused" {
  command = plan

  variables {
    subnet_ids      = ["subnet-1"]
    forwarder_cidrs = { anybody = "0.0.0.0/0" }
    admin_port      = 8080
    port            = 80
  }

  module {
    source = "./modules/balancer"
  }

  expect_failures = [var.subnet_ids, var.forwarder_cidrs, var.port]
}
