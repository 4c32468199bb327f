include { options ; threads } from '../shell'

// How far the error bars can be trusted, measured on the pairs that TRAIN set apart
process CALIBRATE {
    label 'process_low'
    label 'image_cuda'
    label 'process_gpu'

    input:
    tuple val(run), path(mosaic), path(trained, stageAs: 'trained')
    val settings // [ seed, device ]

    output:
    tuple val(run), path('model'), emit: model // the trained model with calibration.json
    tuple val(run), path('*.resources.json'), emit: cost, topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    ${threads(task.cpus)}
    cp -rL trained calibrated # not by links: what is cut in one work folder must be whole in the other
    multivi-nf-calibrate --resources calibrate.resources.json ${mosaic} calibrated ${options(settings)}
    mv calibrated model
    """

    stub:
    """
    cp -rL trained model
    touch model/calibration.json
    echo '{}' > calibrate.resources.json
    """
}
