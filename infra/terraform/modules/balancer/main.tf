# A public load balancer that nobody but CloudFront, the checkers of Route 53 and our own other regions can reach.

locals {
  # What the server calls alive, and nothing that depends on a database: a replica that lags would take every task of the region
  # out at once, and there would be nobody left to serve what is cached.
  health_path = "/health/live"
}

resource "aws_lb" "this" {
  # checkov:skip=CKV_AWS_91:Every request has a line in the log of CloudFront, and every failure one in that of the task, with one request id.
  # checkov:skip=CKV2_AWS_28:WAF stands before CloudFront, and nobody else comes here.

  name               = var.name
  load_balancer_type = "application"
  internal           = false
  subnets            = var.subnet_ids
  security_groups = concat(
    [aws_security_group.edge.id],
    aws_security_group.checkers[*].id,
    aws_security_group.forwarders[*].id,
  )

  # Longer than CloudFront keeps an idle connection, shorter than the server does: whoever closes first must not be the one who
  # is asked next, or a request meets a closed connection and is a 502.
  idle_timeout = var.idle_timeout_seconds

  # What two parsers could read in two ways goes to neither.
  drop_invalid_header_fields = true
  desync_mitigation_mode     = "strictest"
  enable_deletion_protection = true
}

resource "aws_lb_target_group" "this" {
  name        = var.name
  vpc_id      = var.vpc_id
  target_type = "ip"
  protocol    = "HTTP"
  port        = var.port

  # Tasks that are busy with a slow database get less than those that are not.
  load_balancing_algorithm_type = "least_outstanding_requests"
  deregistration_delay          = var.deregistration_seconds

  health_check {
    path                = local.health_path
    matcher             = "200"
    interval            = 5
    timeout             = 2
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }
}

# There is no listener on port 80: nobody who may come here speaks plain HTTP.
resource "aws_lb_listener" "https" {
  load_balancer_arn = aws_lb.this.arn
  protocol          = "HTTPS"
  port              = 443
  ssl_policy        = "ELBSecurityPolicy-TLS13-1-2-2021-06"
  certificate_arn   = var.certificate_arn

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.this.arn
  }
}

# The name that CloudFront, the checkers and other regions use; the certificate has it.
resource "aws_route53_record" "this" {
  zone_id = var.hosted_zone_id
  name    = var.host_name
  type    = "A"

  alias {
    name                   = aws_lb.this.dns_name
    zone_id                = aws_lb.this.zone_id
    evaluate_target_health = false
  }
}
