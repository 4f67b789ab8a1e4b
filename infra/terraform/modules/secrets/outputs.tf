output "value_from" {
  description = "For `secrets` of a container: each name, and the very version of its secret. A new version is a new task definition, so it is rolled out, and rolled back, like any other change."
  value = {
    for name, version in aws_secretsmanager_secret_version.this : name => "${version.arn}:::${version.version_id}"
  }
}

output "arns" {
  description = "The ARN of each secret, by name, of those that are only kept as well."
  value       = { for name, secret in aws_secretsmanager_secret.this : name => secret.arn }
}

output "version_ids" {
  description = "The version that was written last, by name."
  value       = { for name, version in aws_secretsmanager_secret_version.this : name => version.version_id }
}
