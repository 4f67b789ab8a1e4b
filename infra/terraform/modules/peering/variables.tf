variable "name" {
  description = "What the connection is called by."
  type        = string

  validation {
    condition     = length(var.name) >= 1 && length(var.name) <= 128
    error_message = "name: 1 to 128 characters."
  }
}

variable "requester" {
  description = "One side: its VPC, address range and route tables, by zone."
  type        = object({ vpc_id = string, cidr = string, route_table_ids = map(string) })

  validation {
    condition     = can(cidrnetmask(var.requester.cidr)) && length(var.requester.route_table_ids) >= 1
    error_message = "requester: an IPv4 range and at least one route table."
  }
}

variable "accepter" {
  description = "The other side."
  type        = object({ vpc_id = string, cidr = string, route_table_ids = map(string) })

  validation {
    condition     = can(cidrnetmask(var.accepter.cidr)) && length(var.accepter.route_table_ids) >= 1
    error_message = "accepter: an IPv4 range and at least one route table."
  }
}
