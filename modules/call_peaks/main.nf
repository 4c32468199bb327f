include { options ; quoted ; threads ; words } from '../shell'

// Peaks of one group of samples, called by MACS3 on the cut sites of their candidate cells
process CALL_PEAKS {
    tag "${meta.sample}"
    label 'process_medium'
    label 'image_macs3'

    input:
    tuple val(meta), path(fragments, stageAs: 'fragments?/*'), path(candidates, stageAs: 'candidates?/*') // meta: [ sample: the group, name: of its files ]; both in one order
    val settings // [ genome, chrom_style ]
    path chrom_sizes, stageAs: 'genome/chrom_sizes/*'

    output:
    tuple val(meta), path("*.peaks.bed"), emit: peaks // summits with scores
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions
    tuple val("${task.process}"), val('purls'), eval('multivi-nf --purls'), topic: versions
    tuple val("${task.process}"), val('macs3'), eval('(macs3 --version || echo absent) 2> /dev/null | sed "s/.* //"'), topic: versions

    script:
    def cells = (candidates instanceof List ? candidates : [candidates]).collect { file -> "--barcodes=${quoted(file)}" }.join(' ')
    """
    ${threads(task.cpus)}
    multivi-nf-call-peaks --resources ${meta.name}.call_peaks.resources.json ${words(fragments)} ${cells} \\
        ${options(chrom_sizes: chrom_sizes)} ${options(settings)} --output=${meta.name}.peaks.bed
    """

    stub:
    """
    touch ${meta.name}.peaks.bed
    echo '{}' > ${meta.name}.call_peaks.resources.json
    """
}
