variable "name" {
  description = "What the secrets are of; the first part of their names."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9/-]{1,63}$", var.name))
    error_message = "name: lower-case letters, digits, hyphens and slashes."
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

variable "names" {
  description = "The names of environment variables. Apart from the values, which may not say how many resources there are."
  type        = set(string)

  validation {
    condition     = alltrue([for name in var.names : can(regex("^[A-Z][A-Z0-9_]+$", name))])
    error_message = "names: names of environment variables."
  }
}

variable "kept" {
  description = "Names whose secrets stay while they are not among `names`, with what was last written to them: for seven days after a secret is deleted there can be no other one of its name."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for name in var.kept : can(regex("^[A-Z][A-Z0-9_]+$", name))])
    error_message = "kept: names of environment variables."
  }
}

variable "contents" {
  description = "The values, by name."
  type        = map(string)
  ephemeral   = true
  sensitive   = true

  validation {
    condition     = alltrue([for name in var.names : try(length(var.contents[name]) > 0, false)])
    error_message = "contents: one for each of names."
  }
}

variable "contents_version" {
  description = "Another number than before where values have changed; only then are they written."
  type        = number

  validation {
    condition     = var.contents_version >= 0 && floor(var.contents_version) == var.contents_version
    error_message = "contents_version: a whole number."
  }
}
