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

run "refused" {
  command = plan

  variables {
    names            = ["ORIGIN_SECRET", "TOKEN_SECRET"]
    contents_version = 0.5
  }

  module {
    source = "./modules/secrets"
  }

  expect_failures = [var.contents, var.contents_version]
}
