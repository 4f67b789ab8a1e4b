# terraform init -backend-config=production.hcl, a copy of this beside versions.tf. Each environment has a key of its own.
#
# An encrypted, versioned bucket that only whoever deploys can read: the state has three secrets that the provider cannot keep out
# of it. Not in us-east-1, so that it can be read while that region is lost.
bucket       = "example-terraform-state"
key          = "mainstay/production.tfstate"
region       = "eu-west-1"
encrypt      = true
use_lockfile = true
