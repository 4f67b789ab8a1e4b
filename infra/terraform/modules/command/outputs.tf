output "task_family" {
  description = "The family of its task definitions."
  value       = aws_ecs_task_definition.this.family
}

output "log_group" {
  description = "Where it logs to."
  value       = aws_cloudwatch_log_group.this.name
}

output "task" {
  description = "What a task has in its environment, and the names of what it is told in secret."
  value       = { environment = var.environment, secret_names = keys(var.secrets) }
}
