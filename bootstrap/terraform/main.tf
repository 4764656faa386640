# The same as ../template.yaml, for teams that keep IAM and ECR in Terraform. Use one of the two.
# tests/delivery compares every policy of both, so they cannot drift apart.

terraform {
  required_version = ">= 1.0"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.81" # the first that needs no thumbprint for GitHub's provider, and the major one that is tested
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
  here      = "${local.region}:${local.account}"
  issuer    = "token.actions.githubusercontent.com"
  provider  = var.oidc_provider_arn == "" ? aws_iam_openid_connect_provider.github[0].arn : var.oidc_provider_arn

  stack_actions = [
    "cloudformation:CreateChangeSet",
    "cloudformation:DeleteChangeSet",
    "cloudformation:DescribeChangeSet",
    "cloudformation:DescribeStackEvents",
    "cloudformation:DescribeStacks",
    "cloudformation:ExecuteChangeSet",
    "cloudformation:GetTemplate",
    "cloudformation:GetTemplateSummary",
    "cloudformation:ListStackResources",
    "cloudformation:SetStackPolicy",
    "cloudformation:UpdateTerminationProtection",
  ]

  # Who may be which role, what it may deploy, and whether it may build and remove.
  every_role = {
    dev = {
      description = "Jobs on the branch build and deploy to dev"
      subject     = "ref:refs/heads/${var.branch}"
      actions     = local.stack_actions
      stacks      = ["${var.service}-dev/*", "${var.service}-dev-*/*"]
      policies    = ["deploy", "build"]
      writes      = ["artifacts/*", "deployments/${var.service}-dev/*"]
      removes     = { stack = "${var.service}-dev", resources = "${var.service}-dev-*" }
      edge        = "${var.service}-dev"
      web_acl     = "${var.service}-dev-waf"
      more        = []
    }
    prod = {
      description = "Jobs in the prod environment deploy to prod"
      subject     = "environment:${var.prod_environment}"
      actions     = local.stack_actions
      stacks      = ["${var.service}-prod/*", "${var.service}-prod-*/*"]
      policies    = ["deploy"]
      writes      = ["deployments/${var.service}-prod/*"]
      removes     = null
      edge        = "${var.service}-prod"
      web_acl     = "${var.service}-prod-waf"
      more        = local.let_the_load_balancer_go
    }
    drift = {
      description = "Scheduled jobs on the branch look for drift"
      subject     = "ref:refs/heads/${var.branch}"
      actions = [
        "cloudformation:DescribeStackResourceDrifts",
        "cloudformation:DescribeStacks",
        "cloudformation:DetectStackDrift",
        "cloudformation:DetectStackResourceDrift",
        "cloudformation:GetStackPolicy",
        "cloudformation:GetTemplate",
        "cloudformation:ListStackResources",
      ]
      stacks   = ["${var.service}-*/*"]
      policies = []
      writes   = []
      removes  = null
      edge     = null
      web_acl  = "${var.service}-*-waf"
      more     = local.drift
    }
    pull-request = {
      description = "Jobs of pull requests make and remove throw-away stacks"
      subject     = "environment:${var.pull_request_environment}"
      actions     = local.stack_actions
      stacks      = ["${var.service}-preview*/*"]
      policies    = ["deploy", "build"]
      writes      = ["previews/*", "deployments/${var.service}-preview*/*"]
      removes     = { stack = "${var.service}-preview*", resources = "${var.service}-preview*" }
      edge        = null
      web_acl     = null
      more        = local.find_stacks
    }
  }
  roles = { for name, role in local.every_role : name => role if(name == "pull-request") == (var.pull_request_environment != "") }
  policy_arns = {
    deploy = aws_iam_policy.deploy.arn
    build  = aws_iam_policy.build.arn
  }
}

# Artefacts.

resource "aws_s3_bucket" "artifacts" {
  bucket_prefix = "${var.name}-artifacts-"
  lifecycle { prevent_destroy = true } # stacks run from it
}

resource "aws_s3_bucket_versioning" "artifacts" {
  bucket = aws_s3_bucket.artifacts.id
  versioning_configuration { status = "Enabled" }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "artifacts" {
  bucket = aws_s3_bucket.artifacts.id
  rule {
    apply_server_side_encryption_by_default { sse_algorithm = "AES256" }
  }
}

resource "aws_s3_bucket_ownership_controls" "artifacts" {
  bucket = aws_s3_bucket.artifacts.id
  rule { object_ownership = "BucketOwnerEnforced" }
}

resource "aws_s3_bucket_public_access_block" "artifacts" {
  bucket                  = aws_s3_bucket.artifacts.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_lifecycle_configuration" "artifacts" {
  bucket = aws_s3_bucket.artifacts.id
  rule {
    id     = "DropReplacedVersions"
    status = "Enabled"
    filter {}
    noncurrent_version_expiration { noncurrent_days = 30 }
    abort_incomplete_multipart_upload { days_after_initiation = 1 }
  }
  rule {
    id     = "DropPreviews"
    status = "Enabled"
    filter { prefix = "previews/" }
    expiration { days = 30 }
  }
}

resource "aws_s3_bucket_policy" "artifacts" {
  bucket = aws_s3_bucket.artifacts.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "RefusePlainHttp"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = [aws_s3_bucket.artifacts.arn, "${aws_s3_bucket.artifacts.arn}/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}

resource "aws_ecr_repository" "image" {
  name                 = var.service
  image_tag_mutability = "IMMUTABLE"
  image_scanning_configuration { scan_on_push = true }
  encryption_configuration { encryption_type = "AES256" }
  lifecycle { prevent_destroy = true } # stacks run from it
}

# By number and not by age: a stack may run the newest image for years. Only changes of the sources push one.
resource "aws_ecr_lifecycle_policy" "image" {
  repository = aws_ecr_repository.image.name
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
  repository = aws_ecr_repository.image.name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "LambdaPullsForThisAccount"
      Effect    = "Allow"
      Principal = { Service = "lambda.amazonaws.com" }
      Action    = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      Condition = { ArnLike = { "aws:SourceArn" = "arn:${local.partition}:lambda:${local.here}:function:${var.service}-*" } }
    }]
  })
}

# Identity.

resource "aws_iam_openid_connect_provider" "github" {
  count          = var.oidc_provider_arn == "" ? 1 : 0
  url            = "https://${local.issuer}"
  client_id_list = ["sts.amazonaws.com"]
}

resource "aws_iam_policy" "boundary" {
  name        = "${var.name}-WorkloadBoundary"
  description = "Boundary of every role in the ${var.service} stacks"
  policy      = local.boundary
}

resource "aws_iam_policy" "deploy" {
  name        = "${var.name}-DeployPolicy"
  description = "Read artefacts, hand the execution role to CloudFormation"
  policy      = local.deploy
}

resource "aws_iam_policy" "build" {
  name        = "${var.name}-BuildPolicy"
  description = "Push images"
  policy      = local.build
}

resource "aws_iam_role" "execution" {
  name = "${var.name}-ExecutionRole"
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
  policy = local.execution
}

resource "aws_iam_role" "jobs" {
  for_each    = local.roles
  name        = "${var.name}-${each.key}"
  description = each.value.description
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Federated = local.provider }
      Action    = "sts:AssumeRoleWithWebIdentity"
      Condition = { StringEquals = {
        "${local.issuer}:aud" = "sts.amazonaws.com"
        "${local.issuer}:sub" = "repo:${var.repository}:${each.value.subject}"
      } }
    }]
  })
}

resource "aws_iam_role_policy_attachment" "jobs" {
  for_each   = { for pair in flatten([for name, role in local.roles : [for policy in role.policies : { role = name, policy = policy }]]) : "${pair.role}-${pair.policy}" => pair }
  role       = aws_iam_role.jobs[each.value.role].name
  policy_arn = local.policy_arns[each.value.policy]
}

resource "aws_iam_role_policy" "jobs" {
  for_each = local.roles
  name     = "Stacks"
  role     = aws_iam_role.jobs[each.key].name
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [{
        Sid    = "Stacks"
        Effect = "Allow"
        Action = each.value.actions
        Resource = concat(
          [for stack in each.value.stacks : "arn:${local.partition}:cloudformation:${local.here}:stack/${stack}"],
          each.value.web_acl == null ? [] : ["arn:${local.partition}:cloudformation:us-east-1:${local.account}:stack/${each.value.web_acl}/*"],
        )
      }],
      each.value.edge == null ? [] : [{
        Sid      = "PublishTheConsole"
        Effect   = "Allow"
        Action   = ["s3:PutObject"]
        Resource = ["arn:${local.partition}:s3:::${each.value.edge}-edge-consolebucket-*/console/*"]
      }],
      each.value.edge == null ? [] : [{
        Sid       = "RefreshTheEdge"
        Effect    = "Allow"
        Action    = ["cloudfront:CreateInvalidation"]
        Resource  = ["arn:${local.partition}:cloudfront::${local.account}:distribution/*"]
        Condition = { StringEquals = { "aws:ResourceTag/orders-stack" = each.value.edge } }
      }],
      length(each.value.writes) == 0 ? [] : [{
        Sid      = "Write"
        Effect   = "Allow"
        Action   = ["s3:PutObject"]
        Resource = [for path in each.value.writes : "${aws_s3_bucket.artifacts.arn}/${path}"]
      }],
      each.value.removes == null ? [] : [
        {
          Sid    = "RemoveStacks"
          Effect = "Allow"
          Action = ["cloudformation:DeleteStack"]
          Resource = concat(
            ["arn:${local.partition}:cloudformation:${local.here}:stack/${each.value.removes.stack}/*"],
            each.value.edge == null ? [] : [
              "arn:${local.partition}:cloudformation:${local.here}:stack/${each.value.edge}-edge/*",
              "arn:${local.partition}:cloudformation:us-east-1:${local.account}:stack/${each.value.web_acl}/*",
            ],
          )
        },
        {
          Sid    = "RemoveWhatTheyRetain"
          Effect = "Allow"
          Action = [
            "dynamodb:DeleteTable",
            "dynamodb:DescribeTable",
            "dynamodb:Scan", # one item at most: does the table hold data?
            "events:DeleteEventBus",
            "s3:DeleteBucket",
            "s3:DeleteObject",
            "s3:DeleteObjectVersion",
            "s3:ListBucket",
            "s3:ListBucketVersions",
            "sqs:DeleteQueue",
            "sqs:GetQueueAttributes",
          ]
          Resource = [
            "arn:${local.partition}:dynamodb:${local.here}:table/${each.value.removes.resources}",
            "arn:${local.partition}:events:${local.here}:event-bus/${each.value.removes.resources}",
            "arn:${local.partition}:s3:::${each.value.removes.resources}",
            "arn:${local.partition}:sqs:${local.here}:${each.value.removes.resources}",
          ]
        },
        {
          Sid      = "RemoveArchives"
          Effect   = "Allow"
          Action   = ["events:DeleteArchive"]
          Resource = ["arn:${local.partition}:events:${local.here}:archive/${each.value.removes.resources}"]
        },
      ],
      each.value.removes == null ? [] : [{
        Sid       = "RemoveKeysOfTheStage"
        Effect    = "Allow"
        Action    = ["kms:DescribeKey", "kms:ScheduleKeyDeletion"]
        Resource  = ["arn:${local.partition}:kms:${local.here}:key/*"]
        Condition = { StringLike = { "aws:ResourceTag/orders-stack" = each.value.removes.stack } }
      }],
      each.value.more,
    )
  })
}
