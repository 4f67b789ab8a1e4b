output "service_name" {
  description = "The name of the service."
  value       = aws_ecs_service.this.name
}

output "task_family" {
  description = "The family of its task definitions."
  value       = aws_ecs_task_definition.this.family
}

output "log_group" {
  description = "Where its tasks log to."
  value       = aws_cloudwatch_log_group.this.name
}

output "task" {
  description = "What a task has in its environment, and the names of what it is told in secret."
  value       = { environment = local.task_environment, secret_names = keys(var.secrets) }
}
