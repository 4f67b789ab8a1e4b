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

run "a" {
  command = plan

  assert {
    condition     = length(aws_cloudfront_distribution.edge.aliases) == 1
    error_message = jsonencode(aws_cloudfront_distribution.edge.origin_group)
  }
  assert {
    condition     = length(module.us_east_1.service.task_family) > 1
    error_message = "x"
  }
  assert {
    condition     = local.reads_timeout_seconds == 6
    error_message = "x"
  }
}
