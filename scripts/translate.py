"""SAM's transform, of a template in JSON on standard input. It runs in the environment of the emulator."""

import json
import logging
import sys

import boto3
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

logging.getLogger("samtranslator").setLevel(logging.ERROR)
translator = Translator({}, Parser(), boto_session=boto3.Session(region_name=sys.argv[1]))
json.dump(translator.translate(json.load(sys.stdin), {}), sys.stdout)
