# Each of the examples is planned with this: infra/scripts/check-terraform hands them over as variables.

mock_provider "aws" {
  source = "./tests/mocks"
}

mock_provider "aws" {
  alias  = "eu_west_1"
  source = "./tests/mocks"
}

mock_provider "aws" {
  alias  = "ap_southeast_1"
  source = "./tests/mocks"
}

variables {
  secrets = {
    origin_secret             = "test-origin-secret-0123456789abcdef"
    token_secret              = "test-token-secret-0123456789abcdef"
    admin_token               = "test-admin-token-0123456789abcdef"
    database_owner_password   = "test-owner-password-0123456789abcdef"
    database_serving_password = "test-serving-password-0123456789abcdef"
    database_reader_password  = "test-reader-password-0123456789abcdef"
    redis_password            = "test-redis-password-0123456789abcdef"
    redis_reader_password     = "test-redis-reader-password-0123456789abcdef"
    log_broker_password       = "test-log-broker-password-0123456789abcdef"
  }
}

run "an_example" {
  command = plan

  assert {
    condition     = aws_cloudfront_distribution.edge.aliases == toset([var.domain_name]) && startswith(var.image, "123456789012.")
    error_message = "The example was not planned."
  }
}
