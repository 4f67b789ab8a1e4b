# The provider without an alias is us-east-1: the primary's region, and the only one in which CloudFront takes its certificate
# and its WAF. Providers cannot be made in a loop, so the regions are three and have names.

provider "aws" {
  region = "us-east-1"

  default_tags {
    tags = local.tags
  }
}

provider "aws" {
  alias  = "eu_west_1"
  region = "eu-west-1"

  default_tags {
    tags = local.tags
  }
}

provider "aws" {
  alias  = "ap_southeast_1"
  region = "ap-southeast-1"

  default_tags {
    tags = local.tags
  }
}

locals {
  tags = {
    project     = var.name
    environment = var.environment
    managed_by  = "terraform"
  }
}
