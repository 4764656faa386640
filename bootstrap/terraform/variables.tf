variable "repository" {
  description = "GitHub repository that may deploy, as owner/name."
  type        = string
  validation {
    condition     = can(regex("^[A-Za-z0-9-]+/[A-Za-z0-9._-]+$", var.repository))
    error_message = "The repository is owner/name, without wildcards."
  }
}

variable "owner_id" {
  description = "Number of the repository's owner: gh api repos/OWNER/NAME --jq .owner.id"
  type        = string
  validation {
    condition     = can(regex("^[0-9]+$", var.owner_id))
    error_message = "The id is a number."
  }
}

variable "repository_id" {
  description = "Number of the repository: gh api repos/OWNER/NAME --jq .id"
  type        = string
  validation {
    condition     = can(regex("^[0-9]+$", var.repository_id))
    error_message = "The id is a number."
  }
}

variable "branch" {
  description = "Branch whose jobs may look for drift and, if environment is empty, build and deploy."
  type        = string
  default     = "main"
  validation {
    condition     = can(regex("^[A-Za-z0-9._/-]+$", var.branch))
    error_message = "The branch is one name, without wildcards."
  }
}

variable "environment" {
  description = "GitHub environment whose jobs may deploy. Empty takes the branch's jobs. Prod needs one with required reviewers, limited to the branch."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^[A-Za-z0-9_-]*$", var.environment))
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

variable "stage" {
  description = "The stage that this serves. prod deploys what another stage built, and deletes nothing. preview serves orders-preview-<number>."
  type        = string
  default     = "dev"
  validation {
    condition     = can(regex("^[a-z][a-z0-9]{1,15}$", var.stage))
    error_message = "The stage is two to sixteen lower-case letters or digits."
  }
}

variable "hosted_zone_id" {
  description = "Route 53 zone in which the stage's stacks may set record_names. Empty lets them into none."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^(|Z[A-Z0-9]+)$", var.hosted_zone_id))
    error_message = "The zone is its id."
  }
}

variable "record_names" {
  description = "The names, separated by commas, that the stage's stacks may set there. Never those of another stage."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^(|[a-z0-9.-]+(,[a-z0-9.-]+)*)$", var.record_names))
    error_message = "Lower-case names without wildcards, spaces or a dot at the end."
  }
}

variable "artifact_bucket_name" {
  description = "Of the stage that builds, its output artifact_bucket_name. Empty makes this stage build and keep its own."
  type        = string
  default     = ""
}

variable "image_repository_arn" {
  description = "Of the stage that builds, its output image_repository_arn."
  type        = string
  default     = ""
}

variable "prod_account_id" {
  description = "Account of prod, if it is another one. It may then read the artifacts and images that are built here."
  type        = string
  default     = ""
  validation {
    condition     = can(regex("^(|[0-9]{12})$", var.prod_account_id))
    error_message = "The account is twelve digits."
  }
}

variable "name" {
  description = "First part of the names of everything made here; the stage is the second."
  type        = string
  default     = "orders-bootstrap"
}
