"""What Flower starts: the hospitals' side and the server's."""

from pathlib import Path

from federated.deployment.deployment import federation_app, hospital_app

client_app = hospital_app(Path(__file__).parent)
server_app = federation_app(Path(__file__).parent)
