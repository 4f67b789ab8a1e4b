# Secrets pass through.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  name             = "test/regional"
  kms_key_arn      = "arn:aws:kms:us-east-1:123456789012:key/mock"
  names            = ["ORIGIN_SECRET"]
  contents         = { ORIGIN_SECRET = "test-origin-secret-0123456789abcdef" }
  contents_version = 7
}

run "a_secret" {
  command = apply

  module {
    source = "./modules/secrets"
  }

  assert {
    condition     = aws_secretsmanager_secret_version.this["ORIGIN_SECRET"].secret_string == null || aws_secretsmanager_secret_version.this["ORIGIN_SECRET"].secret_string != "test-origin-secret-0123456789abcdef"
    error_message = "The value is in the state."
  }
  assert {
    condition     = aws_secretsmanager_secret_version.this["ORIGIN_SECRET"].secret_string_wo_version == 7
    error_message = "The value is written again when its version is another one."
  }
  assert {
    condition     = aws_secretsmanager_secret.this["ORIGIN_SECRET"].kms_key_id == var.kms_key_arn
    error_message = "Secrets are encrypted with the region's own key."
  }
  assert {
    condition     = can(regex(":::[0-9a-f-]+$", output.value_from["ORIGIN_SECRET"]))
    error_message = "Tasks are told the very version."
  }
}

run "one_that_is_told_no_more" {
  command = apply

  variables {
    names    = []
    kept     = ["ORIGIN_SECRET"]
    contents = {}
  }

  module {
    source = "./modules/secrets"
  }

  assert {
    condition     = aws_secretsmanager_secret.this["ORIGIN_SECRET"].arn == run.a_secret.arns["ORIGIN_SECRET"]
    error_message = "It stays: another one of its name could not be made for a week."
  }
  assert {
    condition     = length(output.value_from) == 0 && length(aws_secretsmanager_secret_version.this) == 0
    error_message = "No task is told of it, and nothing is written to it."
  }
}

run "told_again" {
  command = apply

  variables {
    kept = ["ORIGIN_SECRET"]
  }

  module {
    source = "./modules/secrets"
  }

  assert {
    condition     = startswith(output.value_from["ORIGIN_SECRET"], "${run.a_secret.arns["ORIGIN_SECRET"]}:::") && keys(output.arns) == ["ORIGIN_SECRET"]
    error_message = "A new version, of the secret that there was."
  }
}

run "refused" {
  command = plan

  variables {
    names            = ["ORIGIN_SECRET", "TOKEN_SECRET"]
    kept             = ["token-secret"]
    contents_version = 0.5
  }

  module {
    source = "./modules/secrets"
  }

  expect_failures = [var.contents, var.contents_version, var.kept]
}
