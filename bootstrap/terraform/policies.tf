# The policies of ../template.yaml; the comments stand there.

locals {
  boundary = jsonencode({
    Version = "2012-10-17"
    Statement = [
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
          "lambda:GetFunction",
          "lambda:InvokeFunction",
        ]
        Resource = [
          "arn:${local.partition}:dynamodb:${local.here}:table/${var.service}-*",
          "arn:${local.partition}:events:${local.here}:event-bus/${var.service}-*",
          "arn:${local.partition}:s3:::${var.service}-*",
          "arn:${local.partition}:sqs:${local.here}:${var.service}-*",
          "arn:${local.partition}:sns:${local.here}:${var.service}-*",
          "arn:${local.partition}:lambda:${local.here}:function:${var.service}-*",
        ]
      },
      {
        Sid    = "Keys"
        Effect = "Allow"
        Action = [
          "kms:Decrypt",
          "kms:DescribeKey",
          "kms:Encrypt",
          "kms:GenerateDataKey",
          "kms:GenerateMac",
        ]
        Resource = [
          "arn:${local.partition}:kms:${local.here}:key/*",
        ]
      },
      {
        Sid    = "ReadOriginSecret"
        Effect = "Allow"
        Action = [
          "secretsmanager:GetSecretValue",
        ]
        Resource = [
          "arn:${local.partition}:secretsmanager:${local.here}:secret:OriginSecret-*",
        ]
      },
      {
        Sid    = "ListTableStreams"
        Effect = "Allow"
        Action = [
          "dynamodb:ListStreams",
        ]
        Resource = "*"
      },
      {
        Sid    = "PullImage"
        Effect = "Allow"
        Action = [
          "ecr:BatchCheckLayerAvailability",
          "ecr:BatchGetImage",
          "ecr:GetDownloadUrlForLayer",
        ]
        Resource = [
          aws_ecr_repository.image.arn,
        ]
      },
      {
        Sid    = "Telemetry"
        Effect = "Allow"
        Action = [
          "logs:CreateLogGroup",
          "logs:CreateLogStream",
          "logs:DescribeLogGroups",
          "logs:DescribeLogStreams",
          "logs:PutLogEvents",
        ]
        Resource = [
          "arn:${local.partition}:logs:${local.here}:log-group:*",
        ]
      },
      {
        Sid    = "ServicesThatTakeNoResource"
        Effect = "Allow"
        Action = [
          "cloudwatch:DescribeAlarms",
          "cloudwatch:PutMetricData",
          "ecr:GetAuthorizationToken",
          "xray:GetSamplingRules",
          "xray:GetSamplingTargets",
          "xray:PutTelemetryRecords",
          "xray:PutTraceSegments",
        ]
        Resource = "*"
      },
      {
        Sid    = "ShiftAliases"
        Effect = "Allow"
        Action = [
          "lambda:GetAlias",
          "lambda:GetProvisionedConcurrencyConfig",
          "lambda:UpdateAlias",
        ]
        Resource = [
          "arn:${local.partition}:lambda:${local.here}:function:${var.service}-*",
        ]
      },
    ]
  })

  execution = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid    = "NamedAfterTheStack"
        Effect = "Allow"
        Action = [
          "cloudformation:*",
          "dynamodb:*Backups",
          "dynamodb:*Resource",
          "dynamodb:*Table",
          "dynamodb:*TimeToLive",
          "dynamodb:*ResourcePolicy",
          "dynamodb:List*",
          "dynamodb:*KinesisStreamingDestination",
          "dynamodb:*ContributorInsights",
          "events:*",
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
          "arn:${local.partition}:cloudformation:${local.here}:stack/${var.service}-*",
          "arn:${local.partition}:dynamodb:${local.here}:table/${var.service}-*",
          "arn:${local.partition}:events:${local.here}:*/${var.service}-*",
          "arn:${local.partition}:lambda:${local.here}:function:${var.service}-*",
          "arn:${local.partition}:logs:${local.here}:log-group:*${var.service}-*",
          "arn:${local.partition}:logs:us-east-1:${local.account}:log-group:aws-waf-logs-${var.service}-*",
          "arn:${local.partition}:s3:::${var.service}-*",
          "arn:${local.partition}:secretsmanager:${local.here}:secret:OriginSecret-*",
          "arn:${local.partition}:sns:${local.here}:${var.service}-*",
          "arn:${local.partition}:sqs:${local.here}:${var.service}-*",
        ]
      },
      {
        Sid    = "NamedByAws"
        Effect = "Allow"
        Action = [
          "acm:DescribeCertificate",
          "apigateway:*",
          "application-autoscaling:*",
          "cloudfront:*",
          "cloudwatch:*",
          "codedeploy:*",
          "ec2:*Address*",
          "ec2:*FlowLogs",
          "ec2:*InternetGateway*",
          "ec2:*NatGateway*",
          "ec2:*NetworkAcl*",
          "ec2:*Route*",
          "ec2:*SecurityGroup*",
          "ec2:*Subnet*",
          "ec2:*Tags",
          "ec2:*Vpc*",
          "ec2:Describe*",
          "ecs:*",
          "elasticloadbalancing:*",
          "kms:*Alias*",
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
          "lambda:*EventSourceMapping*",
          "lambda:*Tag*",
          "logs:*LogDeliver*",
          "logs:*QueryDefinition*",
          "logs:*ResourcePolicy",
          "logs:*ResourcePolicies",
          "logs:DescribeLogGroups",
          "route53:ChangeResourceRecordSets",
          "route53:GetChange",
          "route53:GetHostedZone",
          "route53:ListHostedZones",
          "route53:ListResourceRecordSets",
          "secretsmanager:GetRandomPassword",
          "sns:GetSubscriptionAttributes",
          "sns:SetSubscriptionAttributes",
          "sns:Unsubscribe",
          "wafv2:*",
        ]
        Resource = "*"
        Condition = {
          StringEqualsIfExists = {
            "aws:RequestedRegion" = [
              local.region,
              "us-east-1",
            ]
          }
        }
      },
      {
        Sid    = "ReadArtifacts"
        Effect = "Allow"
        Action = [
          "ecr:BatchGetImage",
          "ecr:GetDownloadUrlForLayer",
          "ecr:GetRepositoryPolicy",
          "s3:GetObject",
        ]
        Resource = [
          aws_ecr_repository.image.arn,
          "${aws_s3_bucket.artifacts.arn}/*",
        ]
      },
      {
        Sid    = "Transform"
        Effect = "Allow"
        Action = [
          "cloudformation:CreateChangeSet",
        ]
        Resource = [
          "arn:${local.partition}:cloudformation:${local.region}:aws:transform/*",
        ]
      },
      {
        Sid    = "RolesInsideTheBoundary"
        Effect = "Allow"
        Action = [
          "iam:AttachRolePolicy",
          "iam:CreateRole",
          "iam:PutRolePermissionsBoundary",
          "iam:PutRolePolicy",
        ]
        Resource = [
          "arn:${local.partition}:iam::${local.account}:role/${var.service}-*",
        ]
        Condition = {
          ArnEquals = {
            "iam:PermissionsBoundary" = aws_iam_policy.boundary.arn
          }
        }
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
        Resource = [
          "arn:${local.partition}:iam::${local.account}:policy/${var.service}-*",
        ]
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
        Resource = [
          "arn:${local.partition}:iam::${local.account}:role/${var.service}-*",
        ]
      },
      {
        Sid    = "HandRolesToServices"
        Effect = "Allow"
        Action = [
          "iam:PassRole",
        ]
        Resource = [
          "arn:${local.partition}:iam::${local.account}:role/${var.service}-*",
        ]
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
        Sid    = "ServiceLinkedRoles"
        Effect = "Allow"
        Action = [
          "iam:CreateServiceLinkedRole",
        ]
        Resource = [
          "arn:${local.partition}:iam::${local.account}:role/aws-service-role/*",
        ]
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
        Sid    = "NeverItsOwnFence"
        Effect = "Deny"
        Action = "*"
        Resource = [
          "arn:${local.partition}:iam::${local.account}:role/${var.name}-*",
          "arn:${local.partition}:iam::${local.account}:policy/${var.name}-*",
          "arn:${local.partition}:cloudformation:${local.here}:stack/${var.name}/*",
        ]
      },
      {
        Sid    = "ArtifactsStay"
        Effect = "Deny"
        Action = [
          "s3:DeleteBucket*",
          "s3:PutBucket*",
          "s3:Put*Configuration",
        ]
        Resource = [
          aws_s3_bucket.artifacts.arn,
        ]
      },
      {
        Sid    = "BoundariesStay"
        Effect = "Deny"
        Action = [
          "iam:DeleteRolePermissionsBoundary",
        ]
        Resource = "*"
      },
    ]
  })

  deploy = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid    = "Transform"
        Effect = "Allow"
        Action = [
          "cloudformation:CreateChangeSet",
        ]
        Resource = [
          "arn:${local.partition}:cloudformation:${local.region}:aws:transform/Serverless-2016-10-31",
        ]
      },
      {
        Sid    = "ReadTemplates"
        Effect = "Allow"
        Action = [
          "cloudformation:GetTemplateSummary",
        ]
        Resource = "*"
      },
      {
        Sid    = "FindArtifacts"
        Effect = "Allow"
        Action = [
          "cloudformation:DescribeStacks",
        ]
        Resource = [
          "arn:${local.partition}:cloudformation:${local.here}:stack/${var.name}/*",
        ]
      },
      {
        Sid    = "ReadArtifacts"
        Effect = "Allow"
        Action = [
          "s3:GetObject",
          "s3:ListBucket",
        ]
        Resource = [
          aws_s3_bucket.artifacts.arn,
          "${aws_s3_bucket.artifacts.arn}/*",
        ]
      },
      {
        Sid    = "ActAsCloudFormation"
        Effect = "Allow"
        Action = [
          "iam:PassRole",
        ]
        Resource = [
          aws_iam_role.execution.arn,
        ]
        Condition = {
          StringEquals = {
            "iam:PassedToService" = "cloudformation.amazonaws.com"
          }
        }
      },
    ]
  })

  build = jsonencode({
    Version = "2012-10-17"
    Statement = [
      {
        Sid    = "SignIn"
        Effect = "Allow"
        Action = [
          "ecr:GetAuthorizationToken",
        ]
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
        Resource = [
          aws_ecr_repository.image.arn,
        ]
      },
    ]
  })

  drift = [
    {
      Sid    = "FollowTheSearch"
      Effect = "Allow"
      Action = [
        "cloudformation:BatchDescribeTypeConfigurations",
        "cloudformation:DescribeStackDriftDetectionStatus",
      ]
      Resource = "*"
    },
    {
      Sid    = "ReadConfiguration"
      Effect = "Allow"
      Action = [
        "apigateway:GET",
        "application-autoscaling:Describe*",
        "application-autoscaling:ListTagsForResource",
        "cloudfront:Describe*",
        "cloudfront:Get*",
        "cloudfront:List*",
        "cloudwatch:Describe*",
        "cloudwatch:GetDashboard",
        "cloudwatch:ListTagsForResource",
        "codedeploy:Get*",
        "codedeploy:List*",
        "dynamodb:Describe*",
        "dynamodb:GetResourcePolicy",
        "dynamodb:ListTagsOfResource",
        "ec2:Describe*",
        "ecs:Describe*",
        "elasticloadbalancing:Describe*",
        "elasticloadbalancing:GetLoadBalancerWebACL",
        "events:Describe*",
        "events:List*",
        "iam:Get*",
        "iam:List*",
        "kms:Describe*",
        "kms:Get*",
        "kms:List*",
        "lambda:Get*",
        "lambda:List*",
        "logs:Describe*",
        "logs:GetDataProtectionPolicy",
        "logs:ListTagsForResource",
        "route53:Get*",
        "route53:List*",
        "s3:Get*Configuration",
        "s3:GetBucket*",
        "s3:ListBucket",
        "s3:ListTagsForResource",
        "sns:Get*",
        "sns:List*",
        "sqs:GetQueueAttributes",
        "sqs:ListQueueTags",
        "wafv2:Get*",
        "wafv2:List*",
      ]
      Resource = "*"
    },
  ]

  let_the_load_balancer_go = [
    {
      Sid    = "LetTheLoadBalancerGo"
      Effect = "Allow"
      Action = [
        "elasticloadbalancing:ModifyLoadBalancerAttributes",
      ]
      Resource = [
        "arn:${local.partition}:elasticloadbalancing:${local.here}:loadbalancer/app/*",
      ]
      Condition = {
        StringEquals = {
          "aws:ResourceTag/orders-stack" = "${var.service}-prod"
        }
      }
    },
  ]

  find_stacks = [
    {
      Sid    = "FindStacks"
      Effect = "Allow"
      Action = [
        "cloudformation:ListStacks",
      ]
      Resource = "*"
    },
  ]
}
