variable "repository" {
  description = "GitHub repository that may deploy, as owner/name."
  type        = string
  validation {
    condition     = can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.repository))
    error_message = "The repository is owner/name, without wildcards."
  }
}

variable "branch" {
  description = "Branch whose jobs may build artefacts and deploy to dev."
  type        = string
  default     = "main"
  validation {
    condition     = can(regex("^[A-Za-z0-9._/-]+$", var.branch))
    error_message = "The branch is one name, without wildcards."
  }
}

variable "prod_environment" {
  description = "GitHub environment whose jobs may deploy to prod. Give it required reviewers and limit it to the branch."
  type        = string
  default     = "prod"
  validation {
    condition     = can(regex("^[A-Za-z0-9_-]+$", var.prod_environment))
    error_message = "The environment is one name, without wildcards."
  }
}

variable "pull_request_environment" {
  description = "For an account of pull requests' throw-away stacks, the GitHub environment whose jobs make and remove them. The account then gets no role for dev and prod."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^[A-Za-z0-9_-]*$", var.pull_request_environment))
    error_message = "The environment is one name, without wildcards, or empty."
  }
}

variable "oidc_provider_arn" {
  description = "The account's provider for token.actions.githubusercontent.com, if it has one. Empty makes it."
  type        = string
  default     = ""
}

variable "service" {
  description = "First part of every stack name that may be deployed, as in orders-dev."
  type        = string
  default     = "orders"
  validation {
    condition     = can(regex("^[a-z][a-z0-9]{1,15}$", var.service))
    error_message = "The service is two to sixteen lower-case letters or digits."
  }
}

variable "name" {
  description = "First part of the names of everything made here."
  type        = string
  default     = "orders-bootstrap"
}
