# What a task may do with AWS, and what ECS may do for it: no more than what it was given.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  name = "test-service"
  secrets = {
    ORIGIN_SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:origin-AbCdEf:::version-1"
  }
  kms_key_arn       = "arn:aws:kms:us-east-1:123456789012:key/mock"
  distribution_arns = { edge = "arn:aws:cloudfront::123456789012:distribution/MOCK" }
}

run "least_privilege" {
  command = apply

  module {
    source = "./modules/roles"
  }

  assert {
    condition = jsonencode([for statement in data.aws_iam_policy_document.secrets.statement : [statement.actions, statement.resources]]) == jsonencode([
      [["secretsmanager:GetSecretValue"], ["arn:aws:secretsmanager:us-east-1:123456789012:secret:origin-AbCdEf"]],
      [["kms:Decrypt"], ["arn:aws:kms:us-east-1:123456789012:key/mock"]],
    ])
    error_message = "ECS reads the secrets of this task, with their key, and no others."
  }
  assert {
    condition = jsonencode([for statement in data.aws_iam_policy_document.purges["edge"].statement : [statement.actions, statement.resources]]) == jsonencode([
      [["cloudfront:CreateInvalidation"], ["arn:aws:cloudfront::123456789012:distribution/MOCK"]],
    ])
    error_message = "The task tells its own distribution of purges, and does nothing else."
  }
  assert {
    condition     = one(one(data.aws_iam_policy_document.assume.statement).principals).identifiers == toset(["ecs-tasks.amazonaws.com"])
    error_message = "Only tasks of ECS take these roles."
  }
}
