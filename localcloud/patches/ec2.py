"""EC2: the types of a network. They are recorded in EC2's own API; no packet is routed or blocked."""

from __future__ import annotations

import re
import secrets
from typing import Any

from ministack.services import ec2
from ministack.services.cloudformation import provisioners

from localcloud.patches import patch
from localcloud.patches.tools import Properties, add_type, replace_handler, result


@patch
def addresses() -> None:
    """AWS does: allocate the address. https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-ec2-eip.html
    The emulator does: reject the type, though its EC2 has the call.
    Reported as: not reported.
    """

    def create(logical_id: str, props: Properties, stack: str) -> Any:
        before = set(ec2._addresses)
        result(ec2._allocate_address({"Domain": "vpc"}))
        allocation = (set(ec2._addresses) - before).pop()
        provisioners._ec2_apply_tags(allocation, props)
        address = ec2._addresses[allocation]["PublicIp"]
        return address, {"AllocationId": allocation, "PublicIp": address}

    def delete(physical_id: str, props: Properties) -> None:
        for allocation, address in list(ec2._addresses.items()):
            if address["PublicIp"] == physical_id:
                ec2._release_address({"AllocationId": allocation})

    add_type("AWS::EC2::EIP", create, delete)


@patch
def nat_gateways() -> None:
    """AWS does: create the gateway. https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-ec2-natgateway.html
    The emulator does: reject the type, though its EC2 has the call.
    Reported as: not reported.
    """

    def create(logical_id: str, props: Properties, stack: str) -> Any:
        request = {name: props.get(name, "") for name in ("SubnetId", "AllocationId")}
        body = result(ec2._create_nat_gateway({**request, "ConnectivityType": "public"}))
        gateway = re.search(r"nat-[0-9a-fA-F]+", body).group(0)  # type: ignore[union-attr]
        provisioners._ec2_apply_tags(gateway, props)
        return gateway, {"NatGatewayId": gateway}

    def delete(physical_id: str, props: Properties) -> None:
        ec2._delete_nat_gateway({"NatGatewayId": physical_id})

    add_type("AWS::EC2::NatGateway", create, delete)


@patch
def security_group_rules() -> None:
    """AWS does: add the rule to the group. https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-ec2-securitygroupingress.html
    The emulator does: reject both types.
    Reported as: not reported.
    """

    def add_rule_type(name: str, direction: str) -> None:
        def create(logical_id: str, props: Properties, stack: str) -> Any:
            group = ec2._security_groups.get(props.get("GroupId"))
            if group is None:
                raise ValueError(f"The security group '{props.get('GroupId')}' does not exist")
            rule_id = f"sgr-{secrets.token_hex(9)[:17]}"
            permission = provisioners._ec2_sg_permissions([props])[0]
            group[direction].append({**permission, "SecurityGroupRuleId": rule_id})
            return rule_id, {"Id": rule_id}

        def delete(physical_id: str, props: Properties) -> None:
            group = ec2._security_groups.get(props.get("GroupId"))
            if group:
                rules = group[direction]
                rules[:] = [rule for rule in rules if rule.get("SecurityGroupRuleId") != physical_id]

        add_type(name, create, delete)

    add_rule_type("AWS::EC2::SecurityGroupIngress", "IpPermissions")
    add_rule_type("AWS::EC2::SecurityGroupEgress", "IpPermissionsEgress")


@patch
def security_groups_in_a_vpc() -> None:
    """AWS does: reject a security group in a VPC that does not exist (InvalidVpcID.NotFound). https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
    The emulator does: create the group.
    Reported as: not reported.
    """

    @replace_handler("AWS::EC2::SecurityGroup", "create")
    def create(original: Any, logical_id: str, props: Properties, stack: str) -> Any:
        vpc = props.get("VpcId")
        ec2._ensure_defaults_initialized()
        if vpc and vpc not in ec2._vpcs:
            raise ValueError(f"The vpc ID '{vpc}' does not exist")
        return original(logical_id, props, stack)
