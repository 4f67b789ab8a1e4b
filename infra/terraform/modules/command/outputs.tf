output "task_family" {
  description = "The family of its task definitions."
  value       = aws_ecs_task_definition.this.family
}

output "log_group" {
  description = "Where it logs to."
  value       = aws_cloudwatch_log_group.this.name
}
