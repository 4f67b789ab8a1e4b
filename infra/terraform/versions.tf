terraform {
  # Write-only arguments, ephemeral variables and validations that look at other values need 1.11.
  required_version = ">= 1.11, < 2"

  required_providers {
    aws = {
      source = "hashicorp/aws"
      # 5.100 has the write-only arguments; the bound below 7 is what this was read against, not a wish.
      version = ">= 5.100, < 7"
    }
  }

  # Where the state is kept is said at `terraform init` (examples/backend.hcl, copied to ENVIRONMENT.hcl): it holds what the
  # provider cannot keep out of it (README.md, "Secrets"), so it belongs into an encrypted bucket.
  backend "s3" {}
}
