variable "name" {
  description = "What the roles are called by."
  type        = string

  validation {
    # IAM adds 26 characters to a prefix of at most 38.
    condition     = can(regex("^[a-z][a-z0-9-]{1,31}$", var.name))
    error_message = "name: up to 32 lower-case letters, digits and hyphens."
  }
}

variable "secrets" {
  description = "Secrets by name, each the ARN with its version."
  type        = map(string)

  validation {
    condition     = alltrue([for value_from in values(var.secrets) : strcontains(value_from, ":::")])
    error_message = "secrets: each with its version."
  }
}

variable "kms_key_arn" {
  description = "The key that encrypts them."
  type        = string

  validation {
    condition     = startswith(var.kms_key_arn, "arn:")
    error_message = "kms_key_arn: an ARN."
  }
}

variable "distribution_arns" {
  description = "Distributions of CloudFront that the task may tell of purges, by any name."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for arn in values(var.distribution_arns) : startswith(arn, "arn:")])
    error_message = "distribution_arns: ARNs."
  }
}
