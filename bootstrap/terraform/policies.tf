# The policies of ../template.yaml; the comments stand there.

locals {
  stages = var.stage == "preview" ? "preview*" : var.stage
  own_tags = {
    StringEquals = { "aws:ResourceTag/service" = var.service }
    StringLike   = { "aws:ResourceTag/stage" = local.stages }
  }

  boundary = jsonencode({ Version = "2012-10-17", Statement = [
    {
      Sid    = "OwnData"
      Effect = "Allow"
      Action = [
        "dynamodb:BatchGetItem",
        "dynamodb:DeleteItem",
        "dynamodb:DescribeStream",
        "dynamodb:DescribeTable",
        "dynamodb:GetItem",
        "dynamodb:GetRecords",
        "dynamodb:GetShardIterator",
        "dynamodb:ListStreams",
        "dynamodb:PutItem",
        "dynamodb:Query",
        "dynamodb:UpdateItem",
        "events:PutEvents",
        "s3:DeleteObject",
        "s3:GetObject",
        "s3:ListBucket",
        "s3:PutObject",
        "sqs:*Message*",
        "sqs:GetQueueAttributes",
        "sqs:GetQueueUrl",
        "sns:Publish",
        "lambda:GetAlias",
        "lambda:GetFunction",
        "lambda:GetProvisionedConcurrencyConfig",
        "lambda:InvokeFunction",
        "lambda:UpdateAlias",
      ]
      Resource = [
        "arn:${local.partition}:dynamodb:${local.here}:table/${local.prefix}-*",
        "arn:${local.partition}:events:${local.here}:event-bus/${local.prefix}-*",
        "arn:${local.partition}:s3:::${local.prefix}-*",
        "arn:${local.partition}:sqs:${local.here}:${local.prefix}-*",
        "arn:${local.partition}:sns:${local.here}:${local.prefix}-*",
        "arn:${local.partition}:lambda:${local.here}:function:${local.prefix}-*",
      ]
    },
    {
      Sid       = "OwnKeys"
      Effect    = "Allow"
      Action    = ["kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey", "kms:GenerateMac"]
      Resource  = "arn:${local.partition}:kms:${local.here}:key/*"
      Condition = local.own_tags
    },
    {
      Sid       = "ReadOriginSecret"
      Effect    = "Allow"
      Action    = "secretsmanager:GetSecretValue"
      Resource  = "arn:${local.partition}:secretsmanager:${local.here}:secret:OriginSecret-*"
      Condition = local.own_tags
    },
    {
      Sid      = "PullImage"
      Effect   = "Allow"
      Action   = ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"]
      Resource = local.image_repository_arn
    },
    {
      Sid    = "OwnLogs"
      Effect = "Allow"
      Action = ["logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"]
      Resource = [
        "arn:${local.partition}:logs:${local.here}:log-group:*${local.prefix}-*",
        "arn:${local.partition}:logs:${local.here}:log-group:*${local.prefix}/*",
      ]
    },
    {
      Sid    = "ServicesThatTakeNoResource"
      Effect = "Allow"
      Action = [
        "cloudwatch:DescribeAlarms",
        "dynamodb:ListStreams",
        "ecr:GetAuthorizationToken",
        "logs:DescribeLogGroups",
        "xray:GetSamplingRules",
        "xray:GetSamplingTargets",
        "xray:PutTelemetryRecords",
        "xray:PutTraceSegments",
      ]
      Resource = "*"
    },
  ] })

  execution = jsonencode({ Version = "2012-10-17", Statement = [
    {
      Sid    = "NamedAfterTheStage"
      Effect = "Allow"
      Action = [
        "cloudformation:*",
        "cloudfront:*Function",
        "codedeploy:*",
        "dynamodb:*Backups",
        "dynamodb:*Resource",
        "dynamodb:*Table",
        "dynamodb:*TimeToLive",
        "dynamodb:*ResourcePolicy",
        "dynamodb:List*",
        "dynamodb:*KinesisStreamingDestination",
        "dynamodb:*ContributorInsights",
        "events:*",
        "kms:*Alias",
        "lambda:*",
        "logs:*",
        "s3:*Bucket*",
        "s3:*Configuration",
        "s3:*Tag*Resource",
        "secretsmanager:*",
        "sns:*",
        "sqs:*",
      ]
      Resource = [
        "arn:${local.partition}:cloudformation:${local.here}:stack/${local.prefix}-*",
        "arn:${local.partition}:cloudfront::${local.account}:function/${local.prefix}-*",
        "arn:${local.partition}:codedeploy:${local.here}:*:${local.prefix}-*",
        "arn:${local.partition}:dynamodb:${local.here}:table/${local.prefix}-*",
        "arn:${local.partition}:events:${local.here}:archive/${local.prefix}-*",
        "arn:${local.partition}:events:${local.here}:event-bus/${local.prefix}-*",
        "arn:${local.partition}:events:${local.here}:rule/${local.prefix}-*",
        "arn:${local.partition}:kms:${local.here}:alias/${local.prefix}",
        "arn:${local.partition}:kms:${local.here}:alias/${local.prefix}-*",
        "arn:${local.partition}:kms:${local.here}:key/*",
        "arn:${local.partition}:lambda:${local.here}:function:${local.prefix}-*",
        "arn:${local.partition}:logs:${local.here}:log-group:*${local.prefix}-*",
        "arn:${local.partition}:logs:${local.here}:log-group:*${local.prefix}/*",
        "arn:${local.partition}:logs:us-east-1:${local.account}:log-group:aws-waf-logs-${local.prefix}-*",
        "arn:${local.partition}:s3:::${local.prefix}-*",
        "arn:${local.partition}:secretsmanager:${local.here}:secret:OriginSecret-*",
        "arn:${local.partition}:sns:${local.here}:${local.prefix}-*",
        "arn:${local.partition}:sqs:${local.here}:${local.prefix}-*",
      ]
    },
    {
      Sid    = "NamedByAws"
      Effect = "Allow"
      Action = [
        "acm:DescribeCertificate",
        "apigateway:*",
        "application-autoscaling:*",
        "cloudfront:*CachePolicy",
        "cloudfront:*ConnectionGroup",
        "cloudfront:*Distribution*",
        "cloudfront:GetVpcOrigin",
        "cloudfront:*OriginAccessControl*",
        "cloudfront:*ResponseHeadersPolicy",
        "cloudfront:*Resource",
        "cloudwatch:*",
        "codedeploy:Get*",
        "codedeploy:List*",
        "ec2:*Address*",
        "ec2:*FlowLogs",
        "ec2:*InternetGateway*",
        "ec2:*NatGateway*",
        "ec2:*Route*",
        "ec2:*SecurityGroup*",
        "ec2:*Subnet*",
        "ec2:*Tags",
        "ec2:*Vpc",
        "ec2:*VpcAttribute",
        "ec2:*VpcEncryptionControl*",
        "ec2:*VpcEndpoint*",
        "ec2:*VpcTenancy",
        "ec2:Describe*",
        "ecs:*",
        "elasticloadbalancing:*",
        "kms:*KeyRotation*",
        "kms:CreateGrant",
        "kms:CreateKey",
        "kms:Describe*",
        "kms:Get*",
        "kms:List*",
        "kms:PutKeyPolicy",
        "kms:ScheduleKeyDeletion",
        "kms:*TagResource",
        "kms:UntagResource",
        "kms:UpdateKeyDescription",
        "kms:EnableKey",
        "kms:Decrypt",
        "kms:Encrypt",
        "kms:GenerateDataKey*",
        "kms:ReEncrypt*",
        "kms:RevokeGrant",
        "lambda:*Tag*",
        "lambda:GetEventSourceMapping",
        "lambda:ListEventSourceMappings",
        "logs:*LogDeliver*",
        "logs:*QueryDefinition*",
        "logs:*ResourcePolicy",
        "logs:*ResourcePolicies",
        "logs:DescribeLogGroups",
        "route53:GetChange",
        "route53:ListHostedZones",
        "secretsmanager:GetRandomPassword",
        "sns:GetSubscriptionAttributes",
        "sns:SetSubscriptionAttributes",
        "sns:Unsubscribe",
        "wafv2:*",
      ]
      Resource  = "*"
      Condition = { StringEqualsIfExists = { "aws:RequestedRegion" = [local.region, "us-east-1"] } }
    },
    {
      Sid    = "FeedItsOwnFunctions"
      Effect = "Allow"
      Action = [
        "lambda:CreateEventSourceMapping",
        "lambda:DeleteEventSourceMapping",
        "lambda:UpdateEventSourceMapping",
      ]
      Resource = "*"
      Condition = {
        ArnLike = {
          "lambda:FunctionArn" = "arn:${local.partition}:lambda:${local.here}:function:${local.prefix}-*"
        }
      }
    },
    {
      Sid      = "ReadItsZone"
      Effect   = "Allow"
      Action   = ["route53:GetHostedZone", "route53:ListResourceRecordSets"]
      Resource = "arn:${local.partition}:route53:::hostedzone/${var.hosted_zone_id}"
    },
    {
      Sid      = "SetItsRecords"
      Effect   = "Allow"
      Action   = "route53:ChangeResourceRecordSets"
      Resource = "arn:${local.partition}:route53:::hostedzone/${var.hosted_zone_id}"
      Condition = {
        Null = { "route53:ChangeResourceRecordSetsNormalizedRecordNames" = "false" }
        "ForAllValues:StringEquals" = {
          "route53:ChangeResourceRecordSetsNormalizedRecordNames" = split(",", var.record_names)
        }
      }
    },
    {
      Sid      = "ReadArtifacts"
      Effect   = "Allow"
      Action   = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:GetRepositoryPolicy", "s3:GetObject"]
      Resource = [local.image_repository_arn, "${local.artifacts}/*"]
    },
    {
      Sid      = "Transform"
      Effect   = "Allow"
      Action   = "cloudformation:CreateChangeSet"
      Resource = "arn:${local.partition}:cloudformation:${local.region}:aws:transform/*"
    },
    {
      Sid       = "RolesInsideTheBoundary"
      Effect    = "Allow"
      Action    = ["iam:AttachRolePolicy", "iam:CreateRole", "iam:PutRolePermissionsBoundary", "iam:PutRolePolicy"]
      Resource  = "arn:${local.partition}:iam::${local.account}:role/${local.prefix}-*"
      Condition = { ArnEquals = { "iam:PermissionsBoundary" = aws_iam_policy.boundary.arn } }
    },
    {
      Sid    = "PoliciesOfTheStacks"
      Effect = "Allow"
      Action = [
        "iam:*PolicyVersion",
        "iam:CreatePolicy",
        "iam:DeletePolicy",
        "iam:GetPolicy",
        "iam:ListEntitiesForPolicy",
        "iam:ListPolicyTags",
        "iam:ListPolicyVersions",
        "iam:TagPolicy",
        "iam:UntagPolicy",
      ]
      Resource = "arn:${local.partition}:iam::${local.account}:policy/${local.prefix}-*"
    },
    {
      Sid    = "RolesOfTheStacks"
      Effect = "Allow"
      Action = [
        "iam:DeleteRole",
        "iam:DeleteRolePolicy",
        "iam:DetachRolePolicy",
        "iam:GetRole",
        "iam:GetRolePolicy",
        "iam:ListAttachedRolePolicies",
        "iam:ListRolePolicies",
        "iam:ListRoleTags",
        "iam:TagRole",
        "iam:UntagRole",
        "iam:UpdateAssumeRolePolicy",
        "iam:UpdateRole",
        "iam:UpdateRoleDescription",
      ]
      Resource = "arn:${local.partition}:iam::${local.account}:role/${local.prefix}-*"
    },
    {
      Sid      = "HandRolesToServices"
      Effect   = "Allow"
      Action   = "iam:PassRole"
      Resource = "arn:${local.partition}:iam::${local.account}:role/${local.prefix}-*"
      Condition = {
        StringEquals = {
          "iam:PassedToService" = [
            "application-autoscaling.amazonaws.com",
            "codedeploy.amazonaws.com",
            "ecs-tasks.amazonaws.com",
            "ecs.amazonaws.com",
            "events.amazonaws.com",
            "lambda.amazonaws.com",
            "vpc-flow-logs.amazonaws.com",
          ]
        }
      }
    },
    {
      Sid      = "ServiceLinkedRoles"
      Effect   = "Allow"
      Action   = "iam:CreateServiceLinkedRole"
      Resource = "arn:${local.partition}:iam::${local.account}:role/aws-service-role/*"
      Condition = {
        StringEquals = {
          "iam:AWSServiceName" = [
            "ecs.amazonaws.com",
            "ecs.application-autoscaling.amazonaws.com",
            "elasticloadbalancing.amazonaws.com",
            "ops.apigateway.amazonaws.com",
            "wafv2.amazonaws.com",
          ]
        }
      }
    },
    {
      Sid      = "NotOtherStages"
      Effect   = "Deny"
      Action   = "*"
      Resource = "*"
      Condition = {
        StringEquals  = { "aws:ResourceTag/service" = var.service }
        StringNotLike = { "aws:ResourceTag/stage" = local.stages }
      }
    },
    {
      Sid    = "NoPartsOfApis"
      Effect = "Deny"
      Action = ["apigateway:DELETE", "apigateway:PATCH", "apigateway:POST", "apigateway:PUT"]
      Resource = [
        "arn:${local.partition}:apigateway:${local.region}::/apis/*/authorizers*",
        "arn:${local.partition}:apigateway:${local.region}::/apis/*/deployments*",
        "arn:${local.partition}:apigateway:${local.region}::/apis/*/integrations*",
        "arn:${local.partition}:apigateway:${local.region}::/apis/*/models*",
        "arn:${local.partition}:apigateway:${local.region}::/apis/*/routes*",
      ]
    },
    {
      Sid      = "RulesFeedTheirOwnStage"
      Effect   = "Deny"
      Action   = "events:PutTargets"
      Resource = "*"
      Condition = {
        Null = { "events:ManagedBy" = "true" }
        "ForAnyValue:ArnNotLike" = {
          "events:TargetArn" = [
            "arn:${local.partition}:sqs:${local.here}:${local.prefix}-*",
            "arn:${local.partition}:logs:${local.here}:log-group:/aws/events/${local.prefix}/*",
            "arn:${local.partition}:logs:${local.here}:log-group:/aws/events/${local.prefix}-*",
          ]
        }
      }
    },
    {
      Sid      = "OwnClusterOnly"
      Effect   = "Deny"
      Action   = "ecs:*"
      Resource = "*"
      Condition = {
        Null       = { "ecs:cluster" = "false" }
        ArnNotLike = { "ecs:cluster" = "arn:${local.partition}:ecs:${local.here}:cluster/${local.prefix}-*" }
      }
    },
    {
      Sid    = "NeverItsOwnFence"
      Effect = "Deny"
      Action = "*"
      Resource = [
        "arn:${local.partition}:iam::${local.account}:role/${local.name}-*",
        "arn:${local.partition}:iam::${local.account}:policy/${local.name}-*",
      ]
    },
    {
      Sid      = "BoundariesStay"
      Effect   = "Deny"
      Action   = "iam:DeleteRolePermissionsBoundary"
      Resource = "*"
    },
  ] })

  deploy = jsonencode({ Version = "2012-10-17", Statement = [
    {
      Sid    = "Stacks"
      Effect = "Allow"
      Action = [
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
      Resource = [
        "arn:${local.partition}:cloudformation:${local.here}:stack/${local.prefix}/*",
        "arn:${local.partition}:cloudformation:${local.here}:stack/${local.prefix}-*/*",
        "arn:${local.partition}:cloudformation:us-east-1:${local.account}:stack/${local.prefix}-waf-${local.region}/*",
      ]
    },
    {
      Sid      = "Transform"
      Effect   = "Allow"
      Action   = "cloudformation:CreateChangeSet"
      Resource = "arn:${local.partition}:cloudformation:${local.region}:aws:transform/Serverless-2016-10-31"
    },
    {
      Sid      = "ReadTemplates"
      Effect   = "Allow"
      Action   = "cloudformation:GetTemplateSummary"
      Resource = "*"
    },
    {
      Sid      = "FindArtifacts"
      Effect   = "Allow"
      Action   = "cloudformation:DescribeStacks"
      Resource = "arn:${local.partition}:cloudformation:${local.here}:stack/${local.name}/*"
    },
    {
      Sid      = "ReadArtifactsAndHistory"
      Effect   = "Allow"
      Action   = ["s3:GetObject", "s3:ListBucket"]
      Resource = concat([aws_s3_bucket.store.arn, "${aws_s3_bucket.store.arn}/*"], local.builds ? [] : ["arn:${local.partition}:s3:::${var.artifact_bucket_name}", "arn:${local.partition}:s3:::${var.artifact_bucket_name}/artifacts/*"])
    },
    {
      Sid      = "KeepHistory"
      Effect   = "Allow"
      Action   = "s3:PutObject"
      Resource = "${aws_s3_bucket.store.arn}/deployments/*"
    },
    {
      Sid       = "ActAsCloudFormation"
      Effect    = "Allow"
      Action    = "iam:PassRole"
      Resource  = aws_iam_role.execution.arn
      Condition = { StringEquals = { "iam:PassedToService" = "cloudformation.amazonaws.com" } }
    },
    {
      Sid      = "PublishTheConsole"
      Effect   = "Allow"
      Action   = "s3:PutObject"
      Resource = "arn:${local.partition}:s3:::${local.prefix}-edge-consolebucket-*/console/*"
    },
    {
      Sid       = "RefreshTheEdge"
      Effect    = "Allow"
      Action    = "cloudfront:CreateInvalidation"
      Resource  = "arn:${local.partition}:cloudfront::${local.account}:distribution/*"
      Condition = local.own_tags
    },
    {
      Sid       = "LetTheLoadBalancerGo"
      Effect    = "Allow"
      Action    = "elasticloadbalancing:ModifyLoadBalancerAttributes"
      Resource  = "arn:${local.partition}:elasticloadbalancing:${local.here}:loadbalancer/app/*"
      Condition = local.own_tags
    },
  ] })

  build = jsonencode({ Version = "2012-10-17", Statement = [
    {
      Sid      = "KeepArtifacts"
      Effect   = "Allow"
      Action   = "s3:PutObject"
      Resource = "${aws_s3_bucket.store.arn}/${var.stage == "preview" ? "previews" : "artifacts"}/*"
    },
    {
      Sid      = "SignIn"
      Effect   = "Allow"
      Action   = "ecr:GetAuthorizationToken"
      Resource = "*"
    },
    {
      Sid    = "PushImages"
      Effect = "Allow"
      Action = [
        "ecr:BatchCheckLayerAvailability",
        "ecr:BatchGetImage",
        "ecr:CompleteLayerUpload",
        "ecr:DescribeImages",
        "ecr:DescribeRepositories",
        "ecr:GetDownloadUrlForLayer",
        "ecr:InitiateLayerUpload",
        "ecr:PutImage",
        "ecr:UploadLayerPart",
      ]
      Resource = local.image_repository_arn
    },
  ] })

  remove = jsonencode({ Version = "2012-10-17", Statement = concat([
    {
      Sid    = "RemoveStacks"
      Effect = "Allow"
      Action = "cloudformation:DeleteStack"
      Resource = [
        "arn:${local.partition}:cloudformation:${local.here}:stack/${local.prefix}/*",
        "arn:${local.partition}:cloudformation:${local.here}:stack/${local.prefix}-*/*",
        "arn:${local.partition}:cloudformation:us-east-1:${local.account}:stack/${local.prefix}-waf-${local.region}/*",
      ]
    },
    {
      Sid    = "RemoveWhatTheyRetain"
      Effect = "Allow"
      Action = [
        "dynamodb:DeleteTable",
        "dynamodb:DescribeTable",
        "dynamodb:Scan",
        "events:DeleteArchive",
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
        "arn:${local.partition}:dynamodb:${local.here}:table/${local.prefix}-*",
        "arn:${local.partition}:events:${local.here}:archive/${local.prefix}-*",
        "arn:${local.partition}:events:${local.here}:event-bus/${local.prefix}-*",
        "arn:${local.partition}:s3:::${local.prefix}-*",
        "arn:${local.partition}:sqs:${local.here}:${local.prefix}-*",
      ]
    },
    {
      Sid       = "RemoveKeysOfTheStage"
      Effect    = "Allow"
      Action    = ["kms:DescribeKey", "kms:ScheduleKeyDeletion"]
      Resource  = "arn:${local.partition}:kms:${local.here}:key/*"
      Condition = local.own_tags
    },
    ], var.stage == "preview" ? [{
      Sid      = "FindStacks"
      Effect   = "Allow"
      Action   = "cloudformation:ListStacks"
      Resource = "*"
  }] : []) })

  drift = jsonencode({ Version = "2012-10-17", Statement = [
    {
      Sid    = "Stacks"
      Effect = "Allow"
      Action = [
        "cloudformation:DescribeStackResourceDrifts",
        "cloudformation:DescribeStacks",
        "cloudformation:DetectStackDrift",
        "cloudformation:DetectStackResourceDrift",
        "cloudformation:GetStackPolicy",
        "cloudformation:GetTemplate",
        "cloudformation:ListStackResources",
      ]
      Resource = [
        "arn:${local.partition}:cloudformation:${local.here}:stack/${local.prefix}/*",
        "arn:${local.partition}:cloudformation:${local.here}:stack/${local.prefix}-*/*",
        "arn:${local.partition}:cloudformation:us-east-1:${local.account}:stack/${local.prefix}-waf-${local.region}/*",
      ]
    },
    {
      Sid    = "NamedAfterTheStage"
      Effect = "Allow"
      Action = [
        "cloudfront:DescribeFunction",
        "cloudfront:GetFunction",
        "cloudfront:ListTagsForResource",
        "codedeploy:Get*",
        "codedeploy:List*",
        "dynamodb:Describe*",
        "dynamodb:GetResourcePolicy",
        "dynamodb:ListTagsOfResource",
        "events:Describe*",
        "events:List*",
        "iam:Get*",
        "iam:List*",
        "lambda:Get*",
        "lambda:List*",
        "logs:Describe*",
        "logs:GetDataProtectionPolicy",
        "logs:ListTagsForResource",
        "s3:Get*Configuration",
        "s3:GetBucket*",
        "s3:ListBucket",
        "s3:ListTagsForResource",
        "sns:Get*",
        "sns:List*",
        "sqs:GetQueueAttributes",
        "sqs:ListQueueTags",
      ]
      Resource = [
        "arn:${local.partition}:cloudfront::${local.account}:function/${local.prefix}-*",
        "arn:${local.partition}:codedeploy:${local.here}:*:${local.prefix}-*",
        "arn:${local.partition}:dynamodb:${local.here}:table/${local.prefix}-*",
        "arn:${local.partition}:events:${local.here}:archive/${local.prefix}-*",
        "arn:${local.partition}:events:${local.here}:event-bus/${local.prefix}-*",
        "arn:${local.partition}:events:${local.here}:rule/${local.prefix}-*",
        "arn:${local.partition}:iam::${local.account}:policy/${local.prefix}-*",
        "arn:${local.partition}:iam::${local.account}:role/${local.prefix}-*",
        "arn:${local.partition}:lambda:${local.here}:function:${local.prefix}-*",
        "arn:${local.partition}:logs:${local.here}:log-group:*${local.prefix}-*",
        "arn:${local.partition}:logs:${local.here}:log-group:*${local.prefix}/*",
        "arn:${local.partition}:logs:us-east-1:${local.account}:log-group:aws-waf-logs-${local.prefix}-*",
        "arn:${local.partition}:s3:::${local.prefix}-*",
        "arn:${local.partition}:sns:${local.here}:${local.prefix}-*",
        "arn:${local.partition}:sqs:${local.here}:${local.prefix}-*",
      ]
    },
    {
      Sid    = "TaggedWithTheStage"
      Effect = "Allow"
      Action = [
        "apigateway:GET",
        "application-autoscaling:ListTagsForResource",
        "cloudfront:ListTagsForResource",
        "ecs:DescribeClusters",
        "ecs:DescribeServices",
        "kms:Describe*",
        "kms:Get*",
        "kms:ListResourceTags",
        "wafv2:Get*",
        "wafv2:ListTagsForResource",
      ]
      Resource  = "*"
      Condition = local.own_tags
    },
    {
      Sid      = "MappingsOfItsFunctions"
      Effect   = "Allow"
      Action   = "lambda:GetEventSourceMapping"
      Resource = "*"
      Condition = {
        ArnLike = {
          "lambda:FunctionArn" = "arn:${local.partition}:lambda:${local.here}:function:${local.prefix}-*"
        }
      }
    },
    {
      Sid      = "ReadItsZone"
      Effect   = "Allow"
      Action   = ["route53:GetHostedZone", "route53:ListResourceRecordSets"]
      Resource = "arn:${local.partition}:route53:::hostedzone/${var.hosted_zone_id}"
    },
    {
      Sid    = "PartsOfDomains"
      Effect = "Allow"
      Action = "apigateway:GET"
      Resource = [
        "arn:${local.partition}:apigateway:${local.region}::/domainnames/*/apimappings*",
        "arn:${local.partition}:apigateway:${local.region}::/tags/*",
      ]
    },
    {
      Sid    = "TakesNoResource"
      Effect = "Allow"
      Action = [
        "application-autoscaling:Describe*",
        "cloudformation:BatchDescribeTypeConfigurations",
        "cloudformation:DescribeStackDriftDetectionStatus",
        "cloudfront:GetCachePolicy",
        "cloudfront:GetOriginAccessControl",
        "cloudfront:GetResponseHeadersPolicy",
        "cloudwatch:DescribeAlarms",
        "cloudwatch:GetDashboard",
        "cloudwatch:ListTagsForResource",
        "ec2:DescribeAddresses",
        "ec2:DescribeFlowLogs",
        "ec2:DescribeInternetGateways",
        "ec2:DescribeNatGateways",
        "ec2:DescribeNetworkAcls",
        "ec2:DescribeRouteTables",
        "ec2:DescribeSecurityGroup*",
        "ec2:DescribeSubnets",
        "ec2:DescribeVpc*",
        "elasticloadbalancing:Describe*",
        "elasticloadbalancing:GetLoadBalancerWebACL",
        "kms:ListAliases",
        "lambda:ListTags",
        "logs:DescribeLogGroups",
        "logs:DescribeQueryDefinitions",
        "logs:DescribeResourcePolicies",
        "route53:ListHostedZones",
        "sns:GetSubscriptionAttributes",
        "wafv2:GetWebACLForResource",
      ]
      Resource = "*"
    },
    {
      Sid    = "NoDataNoSecrets"
      Effect = "Deny"
      Action = [
        "cloudfront:GetDistribution*",
        "dynamodb:*Item",
        "dynamodb:GetRecords",
        "dynamodb:Query",
        "dynamodb:Scan",
        "ecs:DescribeTaskDefinition",
        "kms:Decrypt",
        "lambda:InvokeFunction",
        "logs:FilterLogEvents",
        "logs:GetLogEvents",
        "logs:StartQuery",
        "s3:GetObject*",
        "secretsmanager:GetSecretValue",
        "sqs:ReceiveMessage",
        "ssm:GetParameter*",
      ]
      Resource = "*"
    },
  ] })
}
