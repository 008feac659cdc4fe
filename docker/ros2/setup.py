"""The ROS package: one node, its launch file and its parameters."""

from setuptools import setup

NAME = "scmrl_ros"

setup(
    name=NAME,
    version="0.1.0",
    description="Classifies pictures and sound of a robot by an scmrl service",
    license="MIT",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", ["launch/scmrl.launch.py"]),
        (f"share/{NAME}/config", ["config/scmrl.yaml"]),
    ],
    install_requires=["scmrl-client", "numpy"],
    entry_points={"console_scripts": [f"classifier = {NAME}.node:main"]},
)
