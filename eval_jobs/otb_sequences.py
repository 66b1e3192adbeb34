"""The official sequence lists of OTB, as ``video`` or ``video.target``."""


def _names(text: str) -> tuple[str, ...]:
    """Words of a text."""
    return tuple(text.split())


OTB2013 = _names("""
    Basketball Bolt Boy Car4 CarDark CarScale Coke Couple Crossing David David2 David3 Deer
    Dog1 Doll Dudek FaceOcc1 FaceOcc2 Fish FleetFace Football Football1 Freeman1 Freeman3
    Freeman4 Girl Ironman Jogging.1 Jogging.2 Jumping Lemming Liquor Matrix Mhyang
    MotorRolling MountainBike Shaking Singer1 Singer2 Skating1 Skiing Soccer Subway Suv
    Sylvester Tiger1 Tiger2 Trellis Walking Walking2 Woman
""")
"""The 50 videos of OTB-2013; Jogging has two targets, which makes 51 sequences."""

_OTB_LATER = _names("""
    Biker Bird1 Bird2 BlurBody BlurCar1 BlurCar2 BlurCar3 BlurCar4 BlurFace BlurOwl Board
    Bolt2 Box Car1 Car2 Car24 ClifBar Coupon Crowds Dancer Dancer2 Diving Dog DragonBaby Girl2
    Gym Human2 Human3 Human4.2 Human5 Human6 Human7 Human8 Human9 Jump KiteSurf Man Panda
    RedTeam Rubik Skater Skater2 Skating2.1 Skating2.2 Surfer Toy Trans Twinnings Vase
""")

OTB50 = _names("""
    Basketball Biker Bird1 BlurBody BlurCar2 BlurFace BlurOwl Bolt Box Car1 Car4 CarDark
    CarScale ClifBar Couple Crowds David Deer Diving DragonBaby Dudek Football Freeman4 Girl
    Human3 Human4.2 Human6 Human9 Ironman Jump Jumping Liquor Matrix MotorRolling Panda
    RedTeam Shaking Singer2 Skating1 Skating2.1 Skating2.2 Skiing Soccer Surfer Sylvester
    Tiger2 Trellis Walking Walking2 Woman
""")
"""The 50 sequences of OTB-100 that its authors selected as OTB-50."""

OTB100 = OTB2013 + _OTB_LATER
"""All sequences of OTB-100, also called OTB-2015."""
