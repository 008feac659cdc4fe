"""Starts the node with the parameters of a file: `params:=FILE`, `image:=TOPIC`, `audio:=TOPIC`."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node


def generate_launch_description() -> LaunchDescription:
    """Return the node, its topics remapped."""
    params = Path(get_package_share_directory("scmrl_ros")) / "config" / "scmrl.yaml"
    return LaunchDescription(
        [
            DeclareLaunchArgument("params", default_value=str(params)),
            DeclareLaunchArgument("image", default_value="image"),
            DeclareLaunchArgument("audio", default_value="audio"),
            Node(
                package="scmrl_ros",
                executable="classifier",
                name="scmrl",
                parameters=[LaunchConfiguration("params")],
                remappings=[
                    ("image", LaunchConfiguration("image")),
                    ("audio", LaunchConfiguration("audio")),
                ],
            ),
        ]
    )
