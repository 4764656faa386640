# The same as ../template.yaml, for teams that keep IAM and ECR in Terraform. Use one of the two; apply it once per stage.
# The policies are the template's own: `make generate` writes policies.json.tftpl, which tests hold against the template.

terraform {
  required_version = ">= 1.2"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "= 5.100.0" # the one that is tested, in place of a lock file: docs/decisions/0021
    }
  }
}

data "aws_caller_identity" "current" {}
data "aws_partition" "current" {}
data "aws_region" "current" {}

locals {
  partition = data.aws_partition.current.partition
  account   = data.aws_caller_identity.current.account_id
  region    = data.aws_region.current.name
  name      = "${var.name}-${var.stage}"
  prefix    = "${var.service}-${var.stage}"
  issuer    = "token.actions.githubusercontent.com"
  provider  = var.oidc_provider_arn == "" ? aws_iam_openid_connect_provider.github[0].arn : var.oidc_provider_arn

  builds               = var.image_repository_arn == ""
  image_repository_arn = local.builds ? aws_ecr_repository.image[0].arn : var.image_repository_arn
  # By their names, for the policies name the roles that they are of.
  boundary_arn  = "arn:${local.partition}:iam::${local.account}:policy/${local.name}-WorkloadBoundary"
  execution_arn = "arn:${local.partition}:iam::${local.account}:role/${local.name}-ExecutionRole"

  # Names as in ../template.yaml, with _ for :: and .
  policies_of = { for id, document in jsondecode(templatefile("${path.module}/policies.json.tftpl", {
    AWS_AccountId       = local.account
    AWS_Partition       = local.partition
    AWS_Region          = local.region
    AWS_StackName       = local.name
    ArtifactBucketName  = var.artifact_bucket_name
    Builds              = local.builds
    ExecutionRole_Arn   = local.execution_arn
    ForPreviews         = var.stage == "preview"
    HasProdAccount      = var.prod_account_id != ""
    HostedZoneId        = var.hosted_zone_id
    ImageRepositoryArn  = var.image_repository_arn
    ImageRepository_Arn = local.image_repository_arn
    ProdAccountId       = var.prod_account_id
    RecordNames         = var.record_names
    Service             = var.service
    Stage               = var.stage
    Store_Arn           = aws_s3_bucket.store.arn
    WorkloadBoundary    = local.boundary_arn
  })) : id => jsonencode(document) }

  branch = "ref:refs/heads/${var.branch}"
  every_role = {
    deploy = {
      description = "Jobs that deploy ${local.prefix}"
      job         = var.environment == "" ? local.branch : "environment:${var.environment}"
      policies    = merge({ Stacks = local.policies_of.DeployRole }, local.builds ? { Build = local.policies_of.BuildPolicy } : {}, var.stage == "prod" ? {} : { Remove = local.policies_of.RemovePolicy })
    }
    drift = {
      description = "Scheduled jobs on the branch look for drift in ${local.prefix}"
      job         = local.branch
      policies    = { Stacks = local.policies_of.DriftRole }
    }
  }
  roles = { for name, role in local.every_role : name => role if name != "drift" || var.stage != "preview" }
  policies = merge([for role, each in local.roles : { for name, policy in each.policies : "${role}-${name}" => {
    role = role, name = name, policy = policy
  } }]...)
}

# The stage's history and, where it builds, its artifacts.

resource "aws_s3_bucket" "store" {
  # checkov:skip=CKV_AWS_18:only the deploy role writes, and CloudTrail has its calls
  # checkov:skip=CKV_AWS_144:what it holds is built again from the sources
  # checkov:skip=CKV_AWS_145:templates and reports, no data and no secret; a key of ours would be one more thing to lose
  # checkov:skip=CKV2_AWS_62:nobody waits for an object
  bucket_prefix = "${local.name}-store-"
  lifecycle { prevent_destroy = true } # stacks run from it
}

resource "aws_s3_bucket_versioning" "store" {
  bucket = aws_s3_bucket.store.id
  versioning_configuration { status = "Enabled" }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "store" {
  bucket = aws_s3_bucket.store.id
  rule {
    apply_server_side_encryption_by_default { sse_algorithm = "AES256" }
  }
}

resource "aws_s3_bucket_ownership_controls" "store" {
  bucket = aws_s3_bucket.store.id
  rule { object_ownership = "BucketOwnerEnforced" }
}

resource "aws_s3_bucket_public_access_block" "store" {
  bucket                  = aws_s3_bucket.store.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_lifecycle_configuration" "store" {
  bucket = aws_s3_bucket.store.id
  rule {
    id     = "DropUnfinishedUploads"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload { days_after_initiation = 1 }
  }
  rule {
    id     = "DropPreviews"
    status = "Enabled"
    filter { prefix = "previews/" }
    expiration { days = 30 }
    noncurrent_version_expiration { noncurrent_days = 1 }
  }
}

resource "aws_s3_bucket_policy" "store" {
  bucket = aws_s3_bucket.store.id
  policy = local.policies_of.StorePolicy
}

resource "aws_ecr_repository" "image" {
  # checkov:skip=CKV_AWS_136:the image holds no data and no secret; a key of ours would be one more thing to lose
  count                = local.builds ? 1 : 0
  name                 = local.prefix
  image_tag_mutability = "IMMUTABLE"
  image_scanning_configuration { scan_on_push = true }
  encryption_configuration { encryption_type = "AES256" }
  lifecycle { prevent_destroy = true } # stacks run from it
}

# By number and not by age: a stack may run the newest image for years. Only changes of the sources push one.
resource "aws_ecr_lifecycle_policy" "image" {
  count      = local.builds ? 1 : 0
  repository = aws_ecr_repository.image[0].name
  policy = jsonencode({ rules = [
    {
      rulePriority = 1, description = "Pushes that never got a tag", action = { type = "expire" },
      selection    = { tagStatus = "untagged", countType = "sinceImagePushed", countUnit = "days", countNumber = 14 }
    },
    {
      rulePriority = 2, description = "Far more than anyone rolls back", action = { type = "expire" },
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = 500 }
    },
  ] })
}

resource "aws_ecr_repository_policy" "image" {
  count      = local.builds ? 1 : 0
  repository = aws_ecr_repository.image[0].name
  policy     = local.policies_of.ImageRepository
}

# Identity.

resource "aws_iam_openid_connect_provider" "github" {
  count          = var.oidc_provider_arn == "" ? 1 : 0
  url            = "https://${local.issuer}"
  client_id_list = ["sts.amazonaws.com"]
}

resource "aws_iam_policy" "boundary" {
  name        = "${local.name}-WorkloadBoundary"
  description = "Boundary of every role in the ${local.prefix} stacks"
  policy      = local.policies_of.WorkloadBoundary
}

resource "aws_iam_role" "execution" {
  name = "${local.name}-ExecutionRole"
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "cloudformation.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })
}

resource "aws_iam_role_policy" "execution" {
  name   = "Stacks"
  role   = aws_iam_role.execution.name
  policy = local.policies_of.ExecutionRole
}

resource "aws_iam_role" "jobs" {
  for_each    = local.roles
  name        = "${local.name}-${each.key}"
  description = each.value.description
  lifecycle {
    precondition {
      condition     = var.stage != "bootstrap"
      error_message = "Stage bootstrap would own what is named after the bootstraps, the roles of all stages."
    }
    precondition {
      condition     = var.stage != "prod" || (var.environment != "" && !local.builds)
      error_message = "Stage prod needs environment, whose reviewers approve, and artifact_bucket_name and image_repository_arn of the stage that builds."
    }
    precondition {
      condition     = (var.artifact_bucket_name == "") == (var.image_repository_arn == "")
      error_message = "artifact_bucket_name and image_repository_arn go together."
    }
  }
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Federated = local.provider }
      Action    = "sts:AssumeRoleWithWebIdentity"
      Condition = {
        StringEquals = {
          "${local.issuer}:aud" = "sts.amazonaws.com"
          "${local.issuer}:sub" = [
            "repo:${var.repository}:${each.value.job}",
            "repo:${replace(var.repository, "/", "@${var.owner_id}/")}@${var.repository_id}:${each.value.job}",
          ]
        }
        StringEqualsIfExists = { "${local.issuer}:repository_id" = var.repository_id }
      }
    }]
  })
}

resource "aws_iam_role_policy" "jobs" {
  for_each = local.policies
  name     = each.value.name
  role     = aws_iam_role.jobs[each.value.role].name
  policy   = each.value.policy
}
