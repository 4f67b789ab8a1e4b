output "target_group_arn" {
  description = "Where a service registers its tasks; known once requests can reach them."
  value       = aws_lb_target_group.this.arn
  depends_on  = [aws_lb_listener.https]
}

output "target_security_group_id" {
  description = "The group of the tasks."
  value       = aws_security_group.targets.id
}

output "dns_name" {
  description = "The load balancer's own name, for alias records."
  value       = aws_lb.this.dns_name
}

output "zone_id" {
  description = "The zone of that name."
  value       = aws_lb.this.zone_id
}

output "metric_dimensions" {
  description = "What CloudWatch calls the load balancer and its target group."
  value = {
    LoadBalancer = aws_lb.this.arn_suffix
    TargetGroup  = aws_lb_target_group.this.arn_suffix
  }
}
