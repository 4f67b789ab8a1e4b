output "execution_role_arn" {
  description = "The role with which ECS starts a task."
  value       = aws_iam_role.execution.arn
}

output "task_role_arn" {
  description = "The role of the task itself."
  value       = aws_iam_role.task.arn
}
