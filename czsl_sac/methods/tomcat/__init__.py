"""TOMCAT."""
