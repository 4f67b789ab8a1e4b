variable "name" {
  description = "What it is called by; also the family of its task definitions."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}[a-z0-9]$", var.name))
    error_message = "name: up to 32 lower-case letters, digits and hyphens."
  }
}

variable "region" {
  description = "The region it runs in."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}-[a-z]+-[0-9]$", var.region))
    error_message = "region: the name of a region."
  }
}

variable "image" {
  description = "The image."
  type        = string

  validation {
    condition     = can(regex("[:@]", var.image))
    error_message = "image: with a tag or a digest."
  }
}

variable "command" {
  description = "The command and its arguments."
  type        = list(string)

  validation {
    condition     = length(var.command) >= 1
    error_message = "command: not empty."
  }
}

variable "environment" {
  description = "Its environment, without secrets."
  type        = map(string)

  validation {
    condition     = alltrue([for name in keys(var.environment) : !contains(keys(var.secrets), name)])
    error_message = "environment: a name stands among the secrets as well."
  }
}

variable "secrets" {
  description = "Secrets by the name of their environment variable, each the ARN with its version."
  type        = map(string)

  validation {
    condition     = length(var.secrets) >= 1
    error_message = "secrets: at least one."
  }
}

variable "kms_key_arn" {
  description = "The key of the log and of the secrets."
  type        = string

  validation {
    condition     = startswith(var.kms_key_arn, "arn:")
    error_message = "kms_key_arn: an ARN."
  }
}

variable "log_days" {
  description = "How many days the log is kept."
  type        = number

  validation {
    condition     = var.log_days >= 1
    error_message = "log_days: at least 1."
  }
}
